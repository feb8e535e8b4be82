"""Checkpoint: everything a killed run needs to go on as if it had never stopped (promise T3).

The order of samples, the views, the augmentation, the stochastic depth and the learning rate are functions of seed,
epoch and step, so that no generator's state has to be saved: two integers say where the run is.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ci2p_cache.errors import WorkError
from pipeline.running.checkpoint_file import read_checkpoint, read_newest, write_checkpoint
from pipeline.running.finite import non_finite

FORMAT_VERSION = 1
NEWEST, PREVIOUS = "last.ckpt", "previous.ckpt"


@dataclass(frozen=True)
class Progress:
    """Where a run is, and what it has to remember of its way there."""

    epoch: int = 0
    """Epochs finished."""
    step: int = 0
    """Steps done in the epoch that is running."""
    loss_sum: float = 0.0
    """Over those steps."""
    epoch_seconds: float = 0.0
    """Spent on those steps."""
    num_images: int = 0
    """Trained on in the finished epochs."""
    train_seconds: float = 0.0
    """Spent on the steps of the finished epochs, over all interruptions."""
    total_seconds: float = 0.0
    """Spent on everything so far: finished epochs with their evaluation and checkpoints, and the steps of this one."""
    best_top1: float = -1.0
    """In [0, 1]; negative until the first evaluation."""
    best_epoch: int = 0
    last_top1: float = -1.0

    def advance(self, step: int, loss_sum: float, seconds: float) -> "Progress":
        """`step` steps of the epoch are done, the latest of them in `seconds`."""
        return dataclasses.replace(
            self,
            step=step,
            loss_sum=loss_sum,
            epoch_seconds=self.epoch_seconds + seconds,
            total_seconds=self.total_seconds + seconds,
        )

    def next_epoch(self, *, num_images: int, other_seconds: float) -> "Progress":
        """The epoch is over, having shown `num_images`, and beside its steps has taken `other_seconds`."""
        return dataclasses.replace(
            self,
            epoch=self.epoch + 1,
            step=0,
            loss_sum=0.0,
            epoch_seconds=0.0,
            num_images=self.num_images + num_images,
            train_seconds=self.train_seconds + self.epoch_seconds,
            total_seconds=self.total_seconds + other_seconds,
        )


@dataclass(frozen=True)
class Checkpoint:
    """A run at one step."""

    progress: Progress
    model: dict[str, Any]
    optimizer: dict[str, Any]
    precision: dict[str, Any]
    """The float16 loss scale; empty for other precisions."""
    ema: dict[str, Any]
    """The averaged weights, under the names of `model`; empty where the recipe averages none."""
    run: str = ""
    """Which run: see `RunConfig.run_id`; empty where an older ci2p wrote it."""
    metrics: str | None = None
    """What metrics.jsonl holds of the finished epochs; None where an older ci2p wrote it."""
    best: str | None = None
    """The seal of the best weights so far: see `weights_file`; empty without any, None where an older ci2p wrote it."""


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> None:
    """Publishes a run's checkpoint in one piece, and keeps the one before it. Raises OSError when the disk refuses."""
    content = {
        "progress": dataclasses.asdict(checkpoint.progress),
        "model": checkpoint.model,
        "optimizer": checkpoint.optimizer,
        "precision": checkpoint.precision,
        "ema": checkpoint.ema,
        "run": checkpoint.run,
        "metrics": checkpoint.metrics,
        "best": checkpoint.best,
    }
    write_checkpoint(run / NEWEST, content, format_version=FORMAT_VERSION, previous=run / PREVIOUS)


def load_checkpoint(path: Path) -> Checkpoint | None:
    """Reads a checkpoint into CPU memory, or None when there is none. Unpickles tensors and plain values only.

    Raises DamagedCheckpoint when a byte has changed, WorkError when it cannot be read or is of another version.
    """
    content = read_checkpoint(path, format_version=FORMAT_VERSION)
    if content is None:
        return None
    try:
        progress = Progress(**content["progress"])
        parts = content["model"], content["optimizer"], content["precision"]
        later = content.get("ema", {}), content.get("run", ""), content.get("metrics")  # than the first checkpoints
    except (KeyError, TypeError) as error:
        raise WorkError(f"{path} is no checkpoint of this version of ci2p ({error})") from error
    return Checkpoint(progress, *parts, *later, best=content.get("best"))


def newest_checkpoint(run: Path) -> tuple[Checkpoint, bool] | None:
    """A run's newest checkpoint that is whole, and whether it is the previous one; None when there is none.

    Raises WorkError when none can be read.
    """
    found = read_newest(run / NEWEST, run / PREVIOUS, load_checkpoint)
    return None if found is None else (found[0], found[1].name == PREVIOUS)


def take_previous(run: Path) -> None:
    """Makes the previous checkpoint the newest, where that is damaged or gone."""
    (run / PREVIOUS).replace(run / NEWEST)


def refuse_non_finite(model: nn.Module, step: int) -> None:
    """Raises WorkError when a weight is infinite or no number: such a model must not replace a good checkpoint."""
    name = non_finite(model.state_dict())
    if name is not None:
        raise WorkError(
            f"{name} is no longer finite after step {step}, which is in no checkpoint; lower lr, or set grad_clip"
        )
