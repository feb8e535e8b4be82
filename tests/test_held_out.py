"""C7: what was held out stays known, and no command measures on what was trained on without saying so."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ci2p_cache.cache import open_cache
from tests.conftest import call_ci2p, encode_folder, write_image, write_image_folder

ITALIAN = ["cane", "cavallo", "elefante", "farfalla", "gallina", "gatto", "mucca", "pecora", "ragno", "scoiattolo"]
Call = Callable[..., Any]


def write_flat(root: Path, names: list[str], count: int) -> Path:
    for label, name in enumerate(names):
        for number in range(count):
            write_image(root / name / f"{number:03d}.png", seed=1000 + 100 * label + number)
    return root


def train(tmp_path: Path, cache: str = "cache", out: str = "run") -> None:
    done = call_ci2p(
        "train", "--shards", cache, "--out", out, "--model", "ci2p_vit_tiny", "--recipe", "quick", "--epochs", "1",
        "--batch-size", "4", "--device", "cpu", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def evaluate(tmp_path: Path, *arguments: str | Path, run: str = "run") -> tuple[dict[str, Any], str]:
    done = call_ci2p(
        "eval", "--checkpoint", run, "--device", "cpu", "--workers", "0", "--json", "e.json", *arguments, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "e.json").read_text()), done.stdout


def refusal(tmp_path: Path, *arguments: str | Path, run: str = "run") -> str:
    done = call_ci2p("eval", "--checkpoint", run, "--device", "cpu", "--workers", "0", *arguments, cwd=tmp_path)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """flat/: two classes of ten; cache/, 30 % held out; run/. Not to be changed."""
    root = tmp_path_factory.mktemp("held-out")
    encode_folder(write_flat(root / "flat", ["cat", "dog"], 10), root / "cache", val_fraction=0.3)
    train(root)
    return root


def test_a_flat_folder_is_measured_on_what_was_held_out_of_it(held_out: Path) -> None:
    from_cache, _ = evaluate(held_out)
    from_images, said = evaluate(held_out, "--images", held_out / "flat")
    assert from_images["num_images"] == from_cache["num_images"] == 6
    assert from_images["confusion"] == from_cache["confusion"]
    assert from_images["top1"] == from_cache["top1"]
    assert "6 of the 6 images of val that the model's data set holds, found by key" in said
    assert from_images["num_missing"] == 0


def test_the_ten_animals_by_their_italian_names(tmp_path: Path) -> None:
    write_flat(tmp_path / "animals" / "raw-img", ITALIAN, 10)
    encode = [
        "encode", "--dataset", "animals10", "--data-dir", "animals", "--out", "cache", "--image-size", "32",
        "--workers", "0", "--val-fraction", "0.1",
    ]  # fmt: skip
    assert call_ci2p(*encode, cwd=tmp_path).returncode == 0
    train(tmp_path)
    from_cache, _ = evaluate(tmp_path)
    from_images, _ = evaluate(tmp_path, "--images", "animals")
    assert from_images["num_images"] == 10
    assert from_images["confusion"] == from_cache["confusion"]


def test_images_that_are_no_longer_there_are_counted(held_out: Path, tmp_path: Path) -> None:
    shutil.copytree(held_out, tmp_path, dirs_exist_ok=True)
    val = sorted(open_cache(tmp_path / "cache", "val").read_items().keys)
    (tmp_path / "flat" / f"{val[0]}.png").unlink()
    measured, said = evaluate(tmp_path, "--images", "flat")
    assert (measured["num_images"], measured["num_missing"]) == (5, 1)
    assert "5 of the 6 images of val" in said and "images of the split that are not there: 1" in said


def test_an_image_that_has_changed_is_no_image_of_the_split(held_out: Path, tmp_path: Path) -> None:
    shutil.copytree(held_out, tmp_path, dirs_exist_ok=True)
    val = sorted(open_cache(tmp_path / "cache", "val").read_items().keys)
    write_image(tmp_path / "flat" / f"{val[0]}.png", seed=9)
    assert f"images that have changed since they were encoded: 1 ({val[0]})" in refusal(tmp_path, "--images", "flat")
    measured, said = evaluate(tmp_path, "--images", "flat", "--on-error", "skip")
    assert (measured["num_images"], measured["num_failed"]) == (5, 1)
    assert f"left out: {val[0]}: it has changed" in said


def test_images_that_were_trained_on_are_refused_by_name(held_out: Path, tmp_path: Path) -> None:
    train_keys = sorted(open_cache(held_out / "cache", "train").read_items().keys)
    for key in train_keys[:3]:
        target = tmp_path / "trained" / key.replace("/", "/copy-")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(held_out / "flat" / f"{key}.png", target.with_suffix(".png"))
    write_image(tmp_path / "trained" / "dog" / "other.png", seed=5)
    said = refusal(held_out, "--images", tmp_path / "trained")
    assert "the model was trained on 3 of its 4 images (cat/copy-" in said


def test_a_folder_of_other_images_is_measured_whole(held_out: Path, tmp_path: Path) -> None:
    write_flat(tmp_path / "others", ["dog"], 4)
    for number, file in enumerate(sorted((tmp_path / "others" / "dog").iterdir())):
        write_image(file, seed=7000 + number)  # under keys of the data set, with contents that it never had
    measured, said = evaluate(held_out, "--images", tmp_path / "others")
    assert measured["num_images"] == 4
    assert measured["per_class"]["cat"] is None
    assert "all 4 images of" in said and "another folder than the model's data set: it was trained on none" in said


def test_measuring_on_the_training_split_is_said(held_out: Path) -> None:
    for arguments in ((), ("--images", held_out / "flat")):
        measured, said = evaluate(held_out, "--split", "train", *arguments)
        assert measured["num_images"] == 14
        assert "which the model was trained on" in said


def test_a_class_that_the_model_does_not_know_is_named(held_out: Path, tmp_path: Path) -> None:
    write_flat(tmp_path / "zoo", ["emu"], 2)
    for number, file in enumerate(sorted((tmp_path / "zoo" / "emu").iterdir())):
        write_image(file, seed=8000 + number)
    said = refusal(held_out, "--images", tmp_path / "zoo")
    assert "does not know the class emu" in said and "--data-dir" not in said


@pytest.mark.parametrize(
    ("folder", "reason"), [("nowhere", "there is no such folder"), ("empty", "no class folder"), ("", "--images")]
)
def test_what_cannot_be_measured_speaks_of_images(held_out: Path, tmp_path: Path, folder: str, reason: str) -> None:
    (tmp_path / "empty").mkdir()
    said = refusal(held_out, "--images", tmp_path / folder if folder else "")
    assert reason in said and "--data-dir" not in said


def test_the_run_knows_when_its_cache_is_gone(held_out: Path, tmp_path: Path) -> None:
    shutil.copytree(held_out / "run", tmp_path / "run")
    config = json.loads((held_out / "run" / "config.json").read_text())
    config["data"] |= {"path": "nowhere", "absolute_path": "/nowhere", "path_from_run": "../nowhere"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    measured, _ = evaluate(tmp_path, "--images", held_out / "flat")
    assert measured["num_images"] == 6
    # A run of an older ci2p has no such record: then the cache must be told.
    (tmp_path / "run" / "images.npz").unlink()
    assert "say where it is with --shards CACHE" in refusal(tmp_path, "--images", held_out / "flat")
    measured, _ = evaluate(tmp_path, "--images", held_out / "flat", "--shards", held_out / "cache")
    assert measured["num_images"] == 6
    (tmp_path / "run" / "images.npz").write_bytes(b"no arrays")
    assert "images.npz is damaged" in refusal(tmp_path, "--images", held_out / "flat")


def test_three_splits_are_three_splits(tmp_path: Path) -> None:
    images = write_image_folder(tmp_path / "images", train=3, val=2)
    for number in range(2):
        write_image(images / "test" / "red" / f"{number}.png", seed=300 + number)
    encode_folder(images, tmp_path / "cache")
    assert open_cache(tmp_path / "cache", "test").num_samples == 2
    train(tmp_path)
    for arguments in ((), ("--images", images)):
        measured, _ = evaluate(tmp_path, "--split", "test", *arguments)
        assert measured["num_images"] == 2


# Pixel runs


def test_a_pixel_run_knows_what_it_held_out(tmp_path: Path) -> None:
    images = write_flat(tmp_path / "flat", ["cat", "dog"], 10)
    done = call_ci2p(
        "baseline", "--model", "vit_tiny", "--data-dir", "flat", "--val-fraction", "0.3", "--image-size", "32",
        "--recipe", "quick", "--epochs", "1", "--batch-size", "4", "--device", "cpu", "--workers", "0", "--out", "run",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    own, said = evaluate(tmp_path)
    assert own["num_images"] == 6 and "6 of the 6 images of val" in said
    # Images that come later would move the border of what is held out.
    for number in range(5):
        write_image(images / "cat" / f"1{number}.png", seed=number)
        (images / "dog" / f"00{number}.png").rename(images / "dog" / f"a{number}.png")
    again, _ = evaluate(tmp_path, "--images", "flat")
    renamed = own["num_images"] - again["num_images"]
    assert again["num_missing"] == renamed < 6
    shutil.move(images, tmp_path / "moved")
    moved, _ = evaluate(tmp_path, "--images", "moved")
    assert moved["num_images"] == again["num_images"]


def test_on_error_is_the_same_wherever_images_are_read(tmp_path: Path) -> None:
    images = write_image_folder(tmp_path / "images", train=4, val=3)
    (images / "val" / "red" / "bad.png").write_bytes(b"")
    (images / "train" / "blue" / "bad.png").write_bytes(b"")
    encode_folder(images, tmp_path / "cache", on_error="skip")
    train(tmp_path)
    # What failed when it was encoded is no image of the split: nothing has to be skipped.
    measured, said = evaluate(tmp_path, "--images", images)
    assert (measured["num_images"], measured["num_failed"]) == (9, 0)
    other = write_image_folder(tmp_path / "other", train=1, val=2)
    for file in sorted(other.rglob("*.png")):
        write_image(file, seed=abs(hash(file.name)) % 1000 + 5000)
    (other / "val" / "red" / "bad.png").write_bytes(b"")
    assert "image red/bad: empty file; mend it, or use --on-error skip" in refusal(tmp_path, "--images", other)
    measured, said = evaluate(tmp_path, "--images", other, "--on-error", "skip")
    assert measured["failures"] == [{"key": "red/bad", "reason": "empty file"}]
    assert "left out: red/bad: empty file" in said
    baseline = [
        "baseline", "--model", "vit_tiny", "--data-dir", images, "--image-size", "32", "--recipe", "quick",
        "--epochs", "1", "--batch-size", "4", "--workers", "0", "--out", "pixels", "--json", "b.json",
    ]  # fmt: skip
    stopped = call_ci2p(*baseline, cwd=tmp_path)
    assert stopped.returncode == 1 and "--on-error skip" in stopped.stderr
    done = call_ci2p(*baseline, "--on-error", "skip", cwd=tmp_path)
    assert done.returncode == 0 and "left out: blue/bad: empty file" in done.stderr
    assert json.loads((tmp_path / "b.json").read_text())["num_failed"] == 2
    # The grid of a cache beside its originals.
    val = open_cache(tmp_path / "cache", "val")
    key = val.read_items().keys[int(val.positions[0])]
    (images / "val" / f"{key}.png").write_bytes(b"")
    grid = ["inspect", "cache", "--images", "grid.png", "--data-dir", images, "--device", "cpu"]
    assert f"image {key}: " in call_ci2p(*grid, cwd=tmp_path).stderr
    drawn = call_ci2p(*grid, "--on-error", "skip", cwd=tmp_path)
    assert drawn.returncode == 0 and f"not compared: {key}: " in drawn.stdout and "PSNR" in drawn.stdout
