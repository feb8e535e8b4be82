"""What a run folder says of its run, finished or not."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci2p_cache.printable import counted
from pipeline.train.checkpoint import Progress, newest_checkpoint
from pipeline.train.metrics_log import read_metrics
from pipeline.train.run_folder import RunConfig, read_config


@dataclass(frozen=True)
class RunRecord:
    """A run as it lies on the disk."""

    path: Path
    config: RunConfig
    lines: tuple[dict[str, Any], ...]
    """Of metrics.jsonl, an epoch each: see `EpochMetrics`."""
    progress: Progress | None
    """None before the first checkpoint."""

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def epochs_done(self) -> int:
        return self.lines[-1]["epoch"] if self.lines else 0

    @property
    def is_finished(self) -> bool:
        return self.progress is not None and self.progress.epoch >= self.config.recipe.epochs

    @property
    def evaluated(self) -> list[dict[str, Any]]:
        """The lines of epochs that were evaluated."""
        return [line for line in self.lines if line.get("val_top1") is not None]

    @property
    def best(self) -> dict[str, Any] | None:
        """The line of the first epoch with the highest top-1, whose weights are kept."""
        return max(self.evaluated, key=lambda line: float(line["val_top1"]), default=None)

    @property
    def seconds(self) -> float:
        """Over all interruptions, evaluation included."""
        if self.progress is not None:
            return self.progress.total_seconds
        return float(sum(line["seconds"] for line in self.lines))

    @property
    def images_per_s(self) -> float | None:
        """Of the training steps of whole epochs."""
        if self.progress is not None and self.progress.train_seconds > 0:
            return self.progress.num_images / self.progress.train_seconds
        return self.lines[-1]["images_per_s"] if self.lines else None

    @property
    def state(self) -> str:
        """For people: how far it came."""
        epochs = self.config.recipe.epochs
        if self.is_finished:
            return f"finished, {counted(epochs, 'epoch')}"
        step = 0 if self.progress is None else self.progress.step
        into = f" and {counted(step, 'step')}" if step else ""
        return f"not finished: {self.epochs_done} of {counted(epochs, 'epoch')}{into}"


def labels_of(runs: Sequence[RunRecord]) -> list[str]:
    """A name for each, no two alike: the folder's own, or its path where another's is the same."""
    names = [run.name for run in runs]
    return [name if names.count(name) == 1 else str(run.path) for name, run in zip(names, runs, strict=True)]


def read_run(run: Path) -> RunRecord:
    """Raises InputError for what is no run, WorkError for a damaged checkpoint or metrics.jsonl."""
    config = read_config(run)
    newest = newest_checkpoint(run)
    return RunRecord(run, config, tuple(read_metrics(run)), None if newest is None else newest[0].progress)
