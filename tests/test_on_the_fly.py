"""Training without a cache: the encoder in every step gives what a cache would, and the run is used like any other."""

import json
import shlex
from pathlib import Path

import pytest
import torch

from ci2p_cache.errors import InputError
from pipeline.baselines.on_the_fly import OnTheFlyData, encode_on_the_fly
from pipeline.report.repeat import repeat_command
from pipeline.report.run_record import read_run
from pipeline.train.data import Share, open_training_data
from pipeline.train.loop import train
from pipeline.train.recipe import load_recipe
from pipeline.train.run_folder import BEST
from pipeline.train.weights_file import read_weights
from tests.conftest import call_ci2p
from tests.test_baseline import ALONE, pixel_data

IMAGES = ("--encode", "on-the-fly", "--image-size", "32", "--device", "cpu")
SETTINGS = {"model": "ci2p_vit_tiny", "epochs": 2, "batch_size": 16, "seed": 3}


def on_the_fly(folder: Path, *, step: float = 1.0, **settings: object) -> OnTheFlyData:
    return encode_on_the_fly(pixel_data(folder, **settings), step=step)


@pytest.mark.parametrize("flip", [True, False])
def test_batch_for_batch_the_integers_are_the_cache_s(image_folder: Path, zarr_cache: Path, flip: bool) -> None:
    ours = on_the_fly(image_folder).train_batches(ALONE, batch_size=5, seed=3, flip=flip)
    theirs = open_training_data(zarr_cache).train_batches(ALONE, batch_size=5, seed=3, flip=flip)
    assert ours.steps_per_epoch == theirs.steps_per_epoch
    for epoch in range(2):
        for here, there in zip(ours.epoch(epoch), theirs.epoch(epoch), strict=True):
            assert torch.equal(here.labels, there.labels) and not here.latents.is_inference()
            # An encoder's batch of another size may round its last bit otherwise.
            assert (here.latents != there.latents).float().mean() < 1e-3
            assert not torch.signbit(here.latents[here.latents == 0]).any()


def test_latents_are_multiples_of_the_step_and_follow_the_crops(image_folder: Path) -> None:
    halves = next(on_the_fly(image_folder, step=0.5).train_batches(ALONE, batch_size=8, seed=3, flip=False).epoch(0))
    assert torch.equal(halves.latents * 2, (halves.latents * 2).round())
    assert not torch.equal(halves.latents, halves.latents.round())
    fresh = on_the_fly(image_folder, crops="fresh").train_batches(ALONE, batch_size=8, seed=3, flip=False)
    assert not torch.equal(next(fresh.epoch(0)).latents, next(fresh.epoch(1)).latents)
    with pytest.raises(InputError, match="--step is 0"):
        on_the_fly(image_folder, step=0.0)


def test_a_rank_s_share_is_its_part_of_the_batch(image_folder: Path) -> None:
    data = on_the_fly(image_folder)
    whole = next(data.train_batches(ALONE, batch_size=6, seed=0, flip=True).epoch(0))
    half = next(data.train_batches(Share(1, 2, ALONE.device), batch_size=6, seed=0, flip=True).epoch(0))
    assert torch.equal(half.labels, whole.labels[1::2])
    assert (half.latents != whole.latents[1::2]).float().mean() < 1e-3


def test_t3_a_run_of_fresh_crops_that_was_stopped_is_the_run(image_folder: Path, tmp_path: Path) -> None:
    shown = {"crops": "fresh", "augment": "randaugment"}
    recipe = load_recipe("quick", SETTINGS)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe, on_the_fly(image_folder, **shown), whole, device="cpu")
    first = train(
        recipe, on_the_fly(image_folder, **shown), parts, device="cpu", callbacks=[lambda metrics: metrics.epoch == 1]
    )
    assert not first.finished
    with pytest.raises(InputError, match="holds another run: data is"):
        train(recipe, on_the_fly(image_folder), parts, device="cpu")
    assert train(recipe, on_the_fly(image_folder, **shown), parts, device="cpu").finished
    ours, theirs = (torch.load(run / "last.ckpt", weights_only=True)["model"] for run in (whole, parts))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def home(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run under runs/, and what it measured in train.json."""
    folder = tmp_path_factory.mktemp("home")
    options = ("--recipe", "quick", "--model", "ci2p_vit_tiny", "--epochs", "1", "--batch-size", "8", "--workers", "1")
    finished = call_ci2p(
        *("train", *IMAGES, "--data-dir", image_folder, "--crops", "fresh", *options, "--json", "train.json"),
        cwd=folder,
    )
    assert finished.returncode == 0, finished.stderr
    return folder


def test_the_run_is_evaluated_on_its_images_on_a_cache_and_asked(
    home: Path, image_folder: Path, zarr_cache: Path
) -> None:
    measured = json.loads((home / "train.json").read_text())
    assert measured["run"] == "runs/ci2p_vit_tiny-images0-on-the-fly-0" and measured["num_failed"] == 0
    reports = {}
    sources = {"own": (), "folder": ("--images", image_folder), "cache": ("--shards", zarr_cache)}
    for name, where in sources.items():
        finished = call_ci2p("eval", *where, "--device", "cpu", "--workers", "0", "--json", f"{name}.json", cwd=home)
        assert finished.returncode == 0, finished.stderr
        reports[name] = json.loads((home / f"{name}.json").read_text())
    assert reports["own"]["num_images"] == 9 and reports["own"]["top1"] == measured["final_top1"]
    assert reports["own"]["confusion"] == reports["folder"]["confusion"] == reports["cache"]["confusion"]
    asked = call_ci2p("predict", image_folder / "val" / "red" / "000.png", "--device", "cpu", "--json", "-", cwd=home)
    (shares,) = json.loads(asked.stdout).values()
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    refused = call_ci2p("eval", "--split", "train", "--device", "cpu", cwd=home)
    assert refused.returncode == 2 and "was trained without a cache and knows its images of val alone" in refused.stderr


def test_the_command_that_is_told_trains_the_run_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    run = Path(json.loads((home / "train.json").read_text())["run"])
    words = shlex.split(repeat_command(read_run(run)))
    again = call_ci2p(*words[1:], "--workers", "1", cwd=home)
    assert again.returncode == 0, again.stderr
    ours, theirs = (read_weights(folder / BEST)[0] for folder in (run, Path(f"{run}-again")))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--shards", "c", "--encode", "on-the-fly"), "--shards c and --encode on-the-fly: a cache is encoded already"),
        (("--data-dir", "x"), "--data-dir: this is of training without a cache; `ci2p encode` makes a cache of images"),
        (("c", "--step", "2"), "--step: this is of training without a cache"),
        (("--encode", "on-the-fly", "--cache-gb", "1"), "--cache-gb: this is of a remote cache"),
        (("--encode", "on-the-fly", "--resident", "cuda"), "--resident cuda is of a cache"),
        (("--encode", "on-the-fly"), "--data-dir"),
        (("--encode", "on-the-fly", "--dataset", "sample", "--model", "vit_tiny"), "reads pixels"),
        (("--encode", "on-the-fly", "--dataset", "sample", "--weights", "no"), "--weights no: no such file"),
        (("--encode", "on-the-fly", "--dataset", "sample", "--step", "-1"), "--step is -1"),
    ],
)
def test_what_does_not_go_together_is_one_line(tmp_path: Path, options: tuple[str, ...], says: str) -> None:
    refused = call_ci2p("train", *options, "--device", "cpu", cwd=tmp_path)
    assert refused.returncode == 2 and says in refused.stderr, refused.stderr
    assert refused.stderr.strip().splitlines()[-1].startswith("Error: ")
