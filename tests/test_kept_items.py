"""The first run's item list stays the plan: what is gone, new or of another class since; val is drawn once."""

from pathlib import Path

import pytest

from ci2p_cache.cache import open_cache
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.manifest import Manifest
from pipeline.encode.source_check import check_source
from tests.conftest import encode_folder, files_of, write_image, write_image_folder


def images_in(tmp_path: Path) -> Path:
    return write_image_folder(tmp_path / "images", train=4, val=2)


def manifest_of(cache: Path) -> Manifest:
    return open_cache(cache, "train").manifest


@pytest.mark.parametrize("shard_size", [4, 1000])
def test_a_refused_image_may_be_removed_as_told(tmp_path: Path, shard_size: int) -> None:
    images = images_in(tmp_path)
    bad = images / "train" / "red" / "bad.jpg"
    bad.write_bytes(b"")
    with pytest.raises(WorkError, match=r"train image red/bad: empty file; mend or remove it and run the same command"):
        encode_folder(images, tmp_path / "cache", shard_size=shard_size)
    bad.unlink()
    cache = encode_folder(images, tmp_path / "cache", shard_size=shard_size)
    manifest = manifest_of(cache)
    assert (manifest.num_images, manifest.num_failed, manifest.num_items) == (12, 1, 13)
    assert "gone" in manifest.failures[0].reason
    before = files_of(cache)
    encode_folder(images, cache, shard_size=shard_size)  # and a third time nothing is left to do
    assert files_of(cache) == before and "train/refused.json" not in before


def test_an_image_that_vanished_is_an_error_unless_skipped(tmp_path: Path) -> None:
    images = images_in(tmp_path)
    bad = images / "train" / "red" / "bad.jpg"
    bad.write_bytes(b"")
    with pytest.raises(WorkError):
        encode_folder(images, tmp_path / "cache")
    bad.unlink()
    (images / "train" / "blue" / "003.png").unlink()
    with pytest.raises(WorkError, match=r"train image blue/003: .*gone.*; put it back and run the same command"):
        encode_folder(images, tmp_path / "cache")
    cache = encode_folder(images, tmp_path / "cache", on_error="skip")
    assert {failure.key for failure in manifest_of(cache).failures} == {"red/bad", "blue/003"}


def test_an_image_that_vanished_once_it_is_stored_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = images_in(tmp_path)
    cache = encode_folder(images, tmp_path / "cache")
    before = files_of(cache)
    (images / "train" / "blue" / "003.png").unlink()
    with caplog.at_level("WARNING", logger="ci2p"):
        encode_folder(images, cache)
    assert "images that are gone since they were encoded: 1 (blue/003); their latents are kept" in caplog.text
    assert files_of(cache) == before
    assert check_source(cache, "train", str(images)) == [f"train: image blue/003 is not in {images}"]


def test_new_images_refuse_the_cache_by_name(tmp_path: Path) -> None:
    images = images_in(tmp_path)
    cache = encode_folder(images, tmp_path / "cache")
    before = files_of(cache)
    write_image(images / "train" / "blue" / "new.png", seed=7)
    with pytest.raises(
        InputError, match=r"begun without 1 of the images that are there now \(blue/new\); move them out"
    ):
        encode_folder(images, cache)
    assert files_of(cache) == before
    assert check_source(cache, "train", str(images)) == [f"train: image blue/new of {images} is not in the cache"]


def test_an_image_under_another_class_refuses_the_cache(tmp_path: Path) -> None:
    images = images_in(tmp_path)
    for name in ("blue", "red"):
        (images / "train" / name / "000.png").rename(images / "train" / name / f"{name}.png")
    cache = encode_folder(images, tmp_path / "cache")
    for split in ("train", "val"):
        (images / split / "blue").rename(images / split / "azure")
    with pytest.raises(InputError, match=r"begun without \d+ of the images that are there now \(azure/"):
        encode_folder(images, cache)


# What is held out is drawn once


def flat(tmp_path: Path, count: int = 10) -> Path:
    for label, name in enumerate(("cat", "dog")):
        for number in range(count):
            write_image(tmp_path / "flat" / name / f"{number:03d}.png", seed=100 * label + number)
    return tmp_path / "flat"


def test_what_was_held_out_stays_so_when_images_go(tmp_path: Path) -> None:
    images = flat(tmp_path)
    cache = encode_folder(images, tmp_path / "cache", val_fraction=0.3)
    split_of = {key: split for split in ("train", "val") for key in open_cache(cache, split).read_items().keys}
    assert sorted(split_of.values()).count("val") == 6
    before = files_of(cache)
    for number in range(4):  # drawn anew, other images would be held out
        (images / "cat" / f"{number:03d}.png").unlink()
    encode_folder(images, cache, val_fraction=0.3)
    assert files_of(cache) == before
    assert open_cache(cache, "train").spec.val_fraction == 0.3


def test_one_split_at_a_time_is_drawn_once(tmp_path: Path) -> None:
    images = flat(tmp_path)
    cache = encode_folder(images, tmp_path / "cache", splits=["train"])
    whole = encode_folder(images, tmp_path / "whole")
    write_image(images / "cat" / "new.png", seed=5)
    with pytest.raises(InputError, match="cat/new"):
        encode_folder(images, cache, splits=["val"])
    (images / "cat" / "new.png").unlink()
    encode_folder(images, cache, splits=["val"])
    assert files_of(cache) == files_of(whole)


def test_another_fraction_refuses_the_cache_by_name(tmp_path: Path) -> None:
    images = flat(tmp_path)
    cache = encode_folder(images, tmp_path / "cache", val_fraction=0.3)
    with pytest.raises(InputError, match=r"val_fraction is 0\.3 there and 0\.2 in this run \(--val-fraction\)"):
        encode_folder(images, cache, val_fraction=0.2)


@pytest.mark.parametrize("lost", ["train", "val"])
def test_a_kill_between_the_lists_of_both_parts_draws_nothing_anew(tmp_path: Path, lost: str) -> None:
    images = flat(tmp_path)
    whole = encode_folder(images, tmp_path / "whole")
    cache = encode_folder(images, tmp_path / "cache")
    for file in (cache / lost).rglob("*"):
        if file.is_file() and file.name != "keys.npy":
            file.unlink()
    kept = "val" if lost == "train" else "train"
    (cache / kept / "manifest.json").unlink()
    encode_folder(images, cache)
    assert files_of(cache) == files_of(whole)
