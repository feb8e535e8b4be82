"""Training that starts from another run's weights: what is taken over, what is new, and what is remembered of it."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ci2p_cache.errors import InputError
from ci2p_cache.known_images import KnownImages, as_ids
from pipeline.train.checkpoint import newest_checkpoint
from pipeline.train.loop import train
from pipeline.train.metrics_log import read_metrics
from pipeline.train.recipe import load_recipe
from pipeline.train.run_folder import build_model, read_known_images, resolve_config
from pipeline.train.starting_point import start_from
from pipeline.train.trained_model import load_model
from tests.conftest import run_ci2p
from tests.toy_training import Killed, ToyData, build_small, toy_recipe, train_toy


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "first"
    train_toy(run)
    return run


@pytest.mark.parametrize("classes", [("left", "right", "neither"), ("neither", "left", "right"), ("up", "down")])
def test_all_but_a_head_of_other_classes_is_taken_over(
    first: Path, classes: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    data = replace(ToyData(), classes=classes)
    config = resolve_config(toy_recipe(init_from=str(first)), data, run=first, device="cpu", world_size=1)
    model = build_model(config, build_small)
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    with caplog.at_level(logging.INFO, "ci2p"):
        start_from(model, config)
    theirs = load_model(first, build_small)[0].state_dict()
    same_classes = classes == ToyData().classes
    for name, value in model.state_dict().items():
        expected = fresh if name.startswith("head.") and not same_classes else theirs
        assert torch.equal(value, expected[name]), name
    said = "with its head" if same_classes else f"under a new head: 3 classes there, {len(classes)} classes here"
    assert said in caplog.text


def test_another_model_is_refused_by_name(first: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="is a ci2p_vit_tiny, and the model here is ci2p_vit_small; give --model ci2p_"
    ):
        train_toy(tmp_path, init_from=str(first), model="ci2p_vit_small")
    with pytest.raises(InputError, match="does not exist"):
        train_toy(tmp_path, init_from=str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="init_from and pretrained both"):
        load_recipe("quick", {"init_from": str(first), "pretrained": True})
    assert not (tmp_path / "last.ckpt").exists()


class Overlapping(ToyData):
    """Trained on images 100 to 139; of those held out one was seen by whoever trained on images 0 to 39."""

    def known_images(self) -> KnownImages:
        known = super().known_images()
        held_out = replace(known.held_out, ids=as_ids([7]))
        return replace(known, trained=as_ids(range(100, 140)), held_out=held_out)


def test_c7_what_the_first_run_has_seen_stays_known(
    first: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ancestor = tmp_path / "first"
    shutil.copytree(first, ancestor)
    run, recipe = tmp_path / "run", toy_recipe(init_from=str(ancestor))
    with pytest.raises(Killed):
        train(recipe, Overlapping(fault=("kill", 1, 1)), run, device="cpu", build=build_small)
    assert "was trained on 1 of 1 image held out here" in caplog.text
    shutil.rmtree(ancestor)  # a run that has begun needs it no more
    assert train(recipe, Overlapping(), run, device="cpu", build=build_small).finished
    known = read_known_images(run)
    assert known is not None and np.array_equal(known.trained, as_ids([*range(40), *range(100, 140)]))


def test_a_finished_run_says_how_it_is_gone_on_from(first: Path) -> None:
    with pytest.raises(
        InputError, match=r"has a schedule of 3 epochs.*--init-from .*first --epochs 5 and another --out"
    ):
        train_toy(first, epochs=5)


def test_t3_a_constant_run_that_is_extended_is_the_longer_run(tmp_path: Path) -> None:
    longer, run = tmp_path / "longer", tmp_path / "run"
    length = {"schedule": "constant", "epochs": 4, "decay_epochs": 1}
    assert train_toy(longer, **length).epochs == 4
    for epochs in (1, 2):
        assert train_toy(run, schedule="constant", epochs=epochs).epochs == epochs
    with pytest.raises(InputError, match=r"run has 2 epochs behind it.* give --epochs 4 or more"):
        train_toy(run, schedule="constant", epochs=3, decay_epochs=1.5)
    with pytest.raises(Killed):
        train_toy(run, ToyData(fault=("kill", 3, 2)), checkpoint_every_steps=1, **length)
    with pytest.raises(
        InputError, match=r"has fallen since epoch 3 \(decay_epochs = 1 of 4\).*--init-from .*--epochs 9"
    ):
        train_toy(run, schedule="constant", epochs=9)
    assert train_toy(run, **length).finished
    ours, theirs = (newest_checkpoint(folder) for folder in (run, longer))
    assert ours is not None and theirs is not None
    for name, value in theirs[0].model.items():
        assert torch.equal(value, ours[0].model[name]), name
    assert [line["lr"] for line in read_metrics(run)] == [line["lr"] for line in read_metrics(longer)]


def test_ci2p_train_starts_from_a_run(zarr_cache: Path, tmp_path: Path) -> None:
    common = ("train", "--shards", zarr_cache, "--model", "ci2p_vit_tiny", "--epochs", "1", "--device", "cpu")
    assert run_ci2p(*common, "--out", tmp_path / "a").returncode == 0
    weights = tmp_path / "a" / "best.safetensors"
    started = run_ci2p(*common, "--out", tmp_path / "b", "--init-from", weights)
    assert started.returncode == 0 and "with its head" in started.stderr, started.stderr
