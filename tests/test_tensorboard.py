"""TensorBoard, where it is installed: after a resume it shows every step once, as metrics.jsonl does."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.train import checkpoint_writer
from tests.toy_training import Killed, ToyData, train_toy

accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
writers = pytest.importorskip("tensorboard.summary.writer.event_file_writer")


@pytest.fixture(autouse=True)
def first_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard reads files by name: second, host, process, number. One process's tenth comes before its ninth
    there, if both are of one second; a run that is gone on with is another process's."""
    monkeypatch.setattr(writers, "_global_uid", writers.AtomicCounter(0))


@pytest.mark.parametrize("checkpoints", [0, 1, 2])
def test_no_step_is_shown_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: int) -> None:
    """Killed with the epoch's metrics written and its checkpoint not, after so many checkpoints."""
    save, saved = checkpoint_writer.save_checkpoint, []

    def killing(*args: Any) -> None:
        if len(saved) == checkpoints:
            raise Killed
        saved.append(args)
        save(*args)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint_writer, "save_checkpoint", killing)
        train_toy(tmp_path)
    train_toy(tmp_path)
    events = accumulators.EventAccumulator(str(tmp_path))
    events.Reload()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for name in ("train_loss", "val_top1", "lr"):
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        assert shown == [(line["step"], pytest.approx(line[name])) for line in lines], name


def test_a_kill_within_an_epoch_leaves_no_gap(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train_toy(tmp_path, ToyData(fault=("kill", 1, 2)))
    train_toy(tmp_path)
    train_toy(tmp_path)  # finished: nothing is added
    events = accumulators.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("train_loss")] == [5, 10, 15]
