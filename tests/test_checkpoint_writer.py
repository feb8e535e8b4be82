"""The checkpoint writer: its thread writes what was there when it was asked to, and a kill finds it in order."""

import errno
import logging
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from ci2p_cache.errors import InputError, WorkError
from pipeline.running.lock import Lock
from pipeline.train import checkpoint_writer
from pipeline.train.checkpoint import Checkpoint, Progress, load_checkpoint, save_checkpoint
from pipeline.train.checkpoint_writer import CheckpointWriter, HostCopy
from pipeline.train.loop import TrainResult, train
from pipeline.train.metrics_log import read_metrics
from pipeline.train.run_folder import RunConfig
from pipeline.train.trained_model import load_model
from pipeline.train.weights_file import read_seal
from tests.equal_runs import assert_same_run
from tests.toy_training import Killed, ToyData, build_small, toy_recipe, train_toy

BY_CLOCK: dict[str, object] = {"checkpoint_every_steps": 0}


def train_it(run: Path, data: ToyData | None = None, **settings: object) -> TrainResult:
    """A training of which every epoch is the best so far."""
    return train_toy(run, data, seed=1, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never disturbed, and shorter than the clock."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert train_it(run, **BY_CLOCK).finished
    return run


class Gate:
    """In the place of save_checkpoint: it opens when the test says so."""

    def __init__(self) -> None:
        self.opened, self.reached = threading.Event(), threading.Event()

    def __call__(self, run: Path, checkpoint: Checkpoint) -> None:
        self.reached.set()
        assert self.opened.wait(60)
        save_checkpoint(run, checkpoint)


def writer_of(run: Path) -> CheckpointWriter:
    config = SimpleNamespace(model_dump_json=lambda: "{}")
    return CheckpointWriter(run, cast(Lock, SimpleNamespace(check=lambda: None)), cast(RunConfig, config), "")


def checkpoint_of(model: nn.Module, step: int) -> Checkpoint:
    return Checkpoint(Progress(step=step), model.state_dict(), {"groups": [{"lr": 0.1, "betas": (1, 2)}]}, {}, {})


def test_it_writes_what_it_was_given_while_the_weights_move_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, model = Gate(), nn.Linear(3, 2)
    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", gate)
    with writer_of(tmp_path) as writer:
        for step in (1, 2):
            gate.opened.clear()
            model.weight.data.fill_(step)
            writer.keep_best(model)
            writer.write(checkpoint_of(model, step))
            model.weight.data.fill_(7.0)  # the call is back, and nothing has its name yet
            assert gate.reached.wait(60) and (tmp_path / "last.ckpt").exists() == (step > 1)
            gate.opened.set()
            writer.wait()
            found = load_checkpoint(tmp_path / "last.ckpt")
            assert found is not None and found.progress.step == step and found.optimizer["groups"][0]["betas"] == (1, 2)
            assert torch.equal(found.model["weight"], torch.full((2, 3), float(step)))
            assert found.best == read_seal(tmp_path / "best.safetensors") != ""


def test_the_second_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, model = Gate(), nn.Linear(3, 2)
    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", gate)
    with writer_of(tmp_path) as writer:
        writer.write(checkpoint_of(model, 1))
        threading.Timer(0.2, gate.opened.set).start()
        writer.write(checkpoint_of(model, 2))
        assert gate.opened.is_set() and (tmp_path / "last.ckpt").exists()
    found = load_checkpoint(tmp_path / "last.ckpt")  # leaving waits, too
    assert found is not None and found.progress.step == 2


def test_a_host_copy_keeps_layout_and_kind() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    state = model.state_dict()
    copied = HostCopy(state).get()
    assert copied._metadata == state._metadata and list(copied) == list(state)  # type: ignore[attr-defined]
    for name, value in state.items():
        assert torch.equal(copied[name], value) and copied[name].stride() == value.stride()
        assert copied[name].data_ptr() != value.data_ptr()


def test_a_run_shorter_than_the_clock_writes_once(whole: Path) -> None:
    names = {path.name for path in whole.iterdir() if not path.name.startswith("events.")}
    assert names == {"config.json", "images.npz", "metrics.jsonl", "last.ckpt", "best.safetensors"}
    tops = [line["val_top1"] for line in read_metrics(whole)]
    assert tops == sorted(set(tops)), "every epoch was to be the best so far"


def test_the_clock_goes_on_over_the_ends_of_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint is due at 10 minutes, and each step takes four: after steps 3, 6, 9, 12 and at the end."""
    now, steps = [0.0], []

    def save(run: Path, checkpoint: Checkpoint) -> None:
        steps.append((checkpoint.progress.epoch, checkpoint.progress.step))

    def learn(*given: Any) -> Any:
        now[0] += 240.0
        return learnt(*given)

    from pipeline.train.learner import Learner

    learnt = Learner.learn
    monkeypatch.setattr(Learner, "learn", learn)
    monkeypatch.setattr("pipeline.running.deadlines.time.monotonic", lambda: now[0])
    monkeypatch.setattr("pipeline.running.deadlines._LEAST_SECONDS", float("inf"))
    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", save)
    train_it(tmp_path, **BY_CLOCK)
    assert steps == [(0, 3), (1, 1), (1, 4), (2, 2), (3, 0)]


@pytest.mark.parametrize(("writing_seconds", "ends"), [(0.04, [1, 2, 3]), (0.06, [2, 3])])
def test_the_end_of_an_epoch_is_due_where_writing_is_a_twentieth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writing_seconds: float, ends: list[int]
) -> None:
    """Epochs of five steps and a second each."""
    from pipeline.train.learner import Learner

    now, epochs, learnt = [0.0], [], Learner.learn

    def learn(learner: Learner, batch: Any, step: int, seed: int) -> Any:
        now[0] += 0.2
        return learnt(learner, batch, step, seed)

    def save(run: Path, checkpoint: Checkpoint) -> None:
        epochs.append(checkpoint.progress.epoch)

    monkeypatch.setattr(Learner, "learn", learn)
    monkeypatch.setattr("pipeline.running.deadlines.time.monotonic", lambda: now[0])
    monkeypatch.setattr("pipeline.running.deadlines._LEAST_SECONDS", 0.5)
    monkeypatch.setattr(CheckpointWriter, "seconds", writing_seconds)
    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", save)
    train_it(tmp_path, **BY_CLOCK)
    assert epochs == ends


def test_t3_killed_before_the_clock_it_begins_anew(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Killed):
        train_it(run, ToyData(fault=("kill", 2, 1)), **BY_CLOCK)
    assert [line["epoch"] for line in read_metrics(run)] == [1, 2]
    assert not list(run.glob("*.ckpt")) and not list(run.glob("best.*"))
    with pytest.raises(InputError, match="has no weights yet: there is no checkpoint of it so far"):
        load_model(run, build_small)
    with pytest.raises(InputError, match=r"lr is 0\.002 there and 0\.0005 in this command"):
        train_it(run, lr=5e-4)
    train_it(run, **BY_CLOCK)
    assert_same_run(run, whole)


@pytest.mark.parametrize(
    ("place", "number"),
    [
        ("save_next_best", 2),
        ("save_checkpoint", 1),
        ("save_checkpoint", 2),
        ("take_next_best", 1),
        ("take_next_best", 2),
    ],
)
def test_t3_killed_between_any_two_names(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, number: int
) -> None:
    """While the thread writes: the weights of a run are its checkpoint's best all the same."""
    run, calls = tmp_path / "run", []
    done = getattr(checkpoint_writer, place)

    def killing(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == number:
            raise Killed
        return done(*given)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint_writer, place, killing)
        train_it(run)
    checkpoint = load_checkpoint(run / "last.ckpt")
    assert (checkpoint is None) == (number == 1 and place != "take_next_best")
    if checkpoint is None:
        with pytest.raises(InputError, match="no weights yet"):
            load_model(run, build_small)
    else:
        seals = {read_seal(run / name) for name in ("best.safetensors", "best.next") if (run / name).exists()}
        assert checkpoint.best in seals
        model, _ = load_model(run, build_small)
        assert checkpoint.progress.best_epoch == checkpoint.progress.epoch
        assert torch.equal(model.state_dict()["head.weight"], checkpoint.model["head.weight"])
    train_it(run)
    assert_same_run(run, whole)
    assert not (run / "best.next").exists()
    finished = load_checkpoint(run / "last.ckpt")
    assert finished is not None and finished.best == read_seal(run / "best.safetensors")


def test_killed_at_the_very_end_the_best_weights_get_their_name(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint_writer, "take_next_best", killed)
        train_it(tmp_path, **BY_CLOCK)
    assert not (tmp_path / "best.safetensors").exists()
    best, theirs = (load_model(run, build_small)[0].state_dict() for run in (tmp_path, whole))
    assert all(torch.equal(value, theirs[name]) for name, value in best.items())
    assert train_it(tmp_path).finished  # it is; nothing is trained
    assert_same_run(tmp_path, whole)


def test_best_weights_of_a_later_epoch_are_not_taken_for_the_checkpoint_s(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The newest checkpoint is damaged, and the best weights are newer than the one before it."""
    with pytest.raises(Killed):
        train_it(tmp_path, ToyData(fault=("kill", 2, 1)))
    newest, before = (load_checkpoint(tmp_path / name) for name in ("last.ckpt", "previous.ckpt"))
    assert newest is not None and before is not None and newest.best != before.best != ""
    (tmp_path / "last.ckpt").write_bytes(b"x")
    with caplog.at_level(logging.WARNING, "ci2p"):
        train_it(tmp_path)
    assert "from a checkpoint that does not know its best.safetensors" in caplog.text
    assert_same_run(tmp_path, whole)


def test_a_disk_that_refuses_ends_the_run_and_the_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(run: Path, checkpoint: Checkpoint) -> None:
        if checkpoint.progress.epoch:
            raise OSError(errno.ENOSPC, "No space left on device", str(run / "last.ckpt"))
        save_checkpoint(run, checkpoint)

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", full)
    with pytest.raises(WorkError, match=r"cannot be written to.*No space left on device") as refused:
        train_it(tmp_path, checkpoint_every_steps=3)
    assert "\n" not in str(refused.value)
    found = load_checkpoint(tmp_path / "last.ckpt")
    assert found is not None and (found.progress.epoch, found.progress.step) == (0, 3)


def test_a_failure_of_the_thread_does_not_hide_the_training_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        time.sleep(0.3)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", full)
    with caplog.at_level(logging.WARNING, "ci2p"), pytest.raises(WorkError, match="the loss is nan at step 1"):
        train_it(tmp_path, ToyData(fault=("nan", 0, 1)), checkpoint_every_steps=1)
    assert "No space left on device" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_thread_writes_leaves_a_newer_checkpoint(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """An interrupt, too, in any program that leaves it to Python."""
    from pipeline.running.signals import Ended, ending_by_signals

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

    def slow(run: Path, checkpoint: Checkpoint) -> None:
        if checkpoint.progress.epoch == 1 and checkpoint.progress.step == 0:
            os.kill(os.getpid(), number)
            time.sleep(0.2)
        save_checkpoint(run, checkpoint)

    try:
        with monkeypatch.context() as patch, ending_by_signals():
            patch.setattr(checkpoint_writer, "save_checkpoint", slow)
            with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else Ended):
                train(toy_recipe(seed=1), ToyData(), tmp_path, device="cpu", build=build_small)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    found = load_checkpoint(tmp_path / "last.ckpt")
    assert found is not None and found.progress.epoch == 1 and found.progress.step > 0
    assert train_it(tmp_path).finished
    assert_same_run(tmp_path, whole)
