"""Checkpoints: a changed byte is found, the one before it is gone on from, and only damage is called damage."""

import logging
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from ci2p_cache.errors import Ci2pError, WorkError
from ci2p_cache.process import Process, this_process
from pipeline.running.checkpoint_file import DamagedCheckpoint, read_checkpoint, write_checkpoint
from pipeline.train.checkpoint import load_checkpoint
from pipeline.train.loop import train
from pipeline.train.trained_model import load_model
from tests.equal_runs import assert_same_run
from tests.toy_training import CLASSES, Killed, ToyData, build_small, toy_recipe, train_toy

CONTENT = {"weights": {"a": torch.arange(300.0), "b": torch.ones(3, dtype=torch.bfloat16)}, "steps": 7, "name": "x"}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that was killed in its third epoch, having kept two checkpoints."""
    run = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.raises(Killed):
        train_toy(run, ToyData(fault=("kill", 2, 1)))
    return {path.name: path.read_bytes() for path in run.iterdir() if not path.name.startswith("events.")}


@pytest.fixture
def run(stopped: dict[str, bytes], tmp_path: Path) -> Path:
    """That run, to be hurt."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name, data in stopped.items():
        (folder / name).write_bytes(data)
    return folder


def flip(path: Path, byte: int = -1000) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize("sealed", [True, False])
def test_every_changed_byte_is_found(tmp_path: Path, sealed: bool) -> None:
    """Any one of a sealed file; of one from before there were seals those that its records have checksums of."""
    path = tmp_path / "x.ckpt"
    write_checkpoint(path, CONTENT, format_version=1)
    if not sealed:
        torch.save({"format_version": 1} | CONTENT, path)
    whole = path.read_bytes()
    content = read_checkpoint(path, format_version=1)
    assert content is not None and torch.equal(content["weights"]["a"], torch.arange(300.0))
    draw = random.Random(0)
    begin = whole.find(torch.arange(300.0).numpy().tobytes())
    places = range(len(whole)) if sealed else range(begin, begin + 1200)
    for place in [*draw.sample(places, 400), *(range(len(whole) - 100, len(whole)) if sealed else ())]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :])
        with pytest.raises(DamagedCheckpoint, match=r"x\.ckpt is damaged \("):
            read_checkpoint(path, format_version=1)
    for length in (0, 1, 10, 100, len(whole) // 2, len(whole) - 76, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedCheckpoint):
            read_checkpoint(path, format_version=1)


def test_a_checkpoint_is_what_torch_reads(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "x.ckpt", CONTENT, format_version=3)
    assert torch.load(tmp_path / "x.ckpt", weights_only=True)["steps"] == 7


@pytest.mark.parametrize("hurt", ["flip", "cut", "delete"])
def test_t3_the_checkpoint_before_is_gone_on_from(
    run: Path, tmp_path: Path, hurt: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = tmp_path / "whole"
    train_toy(whole)
    newest = run / "last.ckpt"
    if hurt == "flip":
        flip(newest)
    elif hurt == "cut":
        os.truncate(newest, 5000)
    else:
        newest.unlink()
    with caplog.at_level(logging.INFO, "ci2p"), pytest.raises(Killed):
        train_toy(run, ToyData(fault=("kill", 1, 2)))
    how = "gone" if hurt == "delete" else "damaged"
    assert f"last.ckpt is {how}" in caplog.text and "going on from previous.ckpt" in caplog.text
    assert "resumes in epoch 2 after step 0" in caplog.text
    # Killed before it wrote another: what was damaged has not come to be the one before.
    assert load_checkpoint(newest) is not None and not (run / "previous.ckpt").exists()
    assert train_toy(run).finished
    assert_same_run(run, whole)
    assert load_checkpoint(run / "previous.ckpt") is not None


def test_two_damaged_checkpoints_end_the_run_with_both_names(run: Path) -> None:
    flip(run / "last.ckpt")
    flip(run / "previous.ckpt")
    with pytest.raises(WorkError, match=r"last\.ckpt is damaged .*previous\.ckpt is damaged .*give another --out"):
        train_toy(run)
    (run / "previous.ckpt").unlink()
    with pytest.raises(WorkError, match=r"last\.ckpt is damaged .*there is none from before it; give another --out"):
        train_toy(run)


def test_the_last_weights_of_a_damaged_run_are_those_before(tmp_path: Path) -> None:
    run = tmp_path
    with pytest.raises(Killed):  # before its first evaluation
        train_toy(run, ToyData(fault=("kill", 0, 4)), checkpoint_every_steps=1)
    flip(run / "last.ckpt")
    model, _ = load_model(run, build_small)
    before = load_checkpoint(run / "previous.ckpt")
    assert before is not None
    assert torch.equal(model.state_dict()["head.weight"], before.model["head.weight"])


def _folder(path: Path, _: pytest.MonkeyPatch) -> None:
    path.unlink()
    path.mkdir()


def _no_permission(path: Path, patch: pytest.MonkeyPatch) -> None:
    """As root there is no such thing, so the system's answer is given for it."""
    whole_open = Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied", str(path))
        return whole_open(self, *arguments, **options)

    patch.setattr(Path, "open", refuse)


def _no_memory(path: Path, patch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory")

    patch.setattr(torch, "load", load)


def _other_pickle(path: Path, _: pytest.MonkeyPatch) -> None:
    torch.save(Path("x"), path)


def _other_content(path: Path, _: pytest.MonkeyPatch) -> None:
    write_checkpoint(path, {"progress": {"epochs": 3}}, format_version=1)


@pytest.mark.parametrize(
    ("hurt", "reason"),
    [
        (_folder, r"last\.ckpt cannot be read \(Is a directory\)"),
        (_no_permission, r"last\.ckpt cannot be read \(Permission denied\)"),
        (_no_memory, r"last\.ckpt does not fit into the memory"),
        (_other_pickle, r"last\.ckpt is no checkpoint that torch can load"),
        (_other_content, r"last\.ckpt is no checkpoint of this version"),
    ],
)
def test_what_cannot_be_read_is_not_called_damaged(
    run: Path, monkeypatch: pytest.MonkeyPatch, hurt: Any, reason: str
) -> None:
    hurt(run / "last.ckpt", monkeypatch)
    with pytest.raises(Ci2pError, match=reason) as error:
        train_toy(run)
    assert not {"damaged", "delete"} & set(str(error.value).split())


def test_leftovers_of_the_killed_are_swept(run: Path) -> None:
    mine = this_process()
    gone = run / f".last.ckpt.{Process(mine.host, mine.pid, '1', mine.kernel)}.tmp"
    living = run / f".other.{mine}.tmp"
    for path in (gone, living):
        path.write_bytes(b"x")
    train(toy_recipe(), ToyData(), run, device="cpu", max_minutes=0, build=build_small)
    assert not gone.exists() and living.exists()


def test_best_weights_stand_alone_and_every_byte_is_held(tmp_path: Path) -> None:
    """Without config.json beside them they give the same model; with one of another model they are refused."""
    run, alone = tmp_path / "run", tmp_path / "alone" / "mine.safetensors"
    train_toy(run)
    data = (run / "best.safetensors").read_bytes()
    alone.parent.mkdir()
    alone.write_bytes(data)
    model, config = load_model(alone, build_small)
    beside, told = load_model(run, build_small)
    assert config == told and config.data.classes == CLASSES
    assert all(torch.equal(value, beside.state_dict()[name]) for name, value in model.state_dict().items())
    rng = random.Random(0)
    for place in [8, 20, *(rng.randrange(len(data)) for _ in range(60))]:
        changed = bytearray(data)
        changed[place] ^= 1 << rng.randrange(8)
        alone.write_bytes(changed)
        with pytest.raises(WorkError, match=r"mine\.safetensors"):
            load_model(alone, build_small)
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace('"left"', '"right"', 1))
    with pytest.raises(WorkError, match=r"config\.json has another classes than best\.safetensors"):
        load_model(run, build_small)


def test_lost_best_weights_are_missed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Killed):
        train_toy(tmp_path, ToyData(fault=("kill", 2, 3)))
    best = tmp_path / "best.safetensors"
    data = best.read_bytes()
    best.write_bytes(data[:-1])
    with pytest.raises(WorkError, match=r"damaged.*delete it to go on without the best weights so far"):
        train_toy(tmp_path)
    best.unlink()
    with pytest.raises(WorkError, match=r"has lost its best\.safetensors; name .*last\.ckpt"):
        load_model(tmp_path, build_small)
    with caplog.at_level("WARNING", "ci2p"):
        assert train_toy(tmp_path).best_top1 is not None
    assert "the best of what follows is kept" in caplog.text and best.exists()
