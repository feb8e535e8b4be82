"""Metrics log: metrics.jsonl, a line per epoch, and TensorBoard's events where TensorBoard is installed."""

import json
import logging
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ci2p_cache.errors import WorkError
from ci2p_cache.publish import publish

logger = logging.getLogger("ci2p")

_BLANK = b" \t\r\0"


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch came to."""

    epoch: int
    """Epochs finished: the first line says 1."""
    step: int
    """Steps done since the run began."""
    train_loss: float
    """Mean over the epoch's steps, augmentation and label smoothing included."""
    val_top1: float | None
    """Share of validation samples in [0, 1], by the averaged weights where there are any; None when the epoch was not
    evaluated."""
    val_top5: float | None
    """The same among the five likeliest classes, or among all when there are fewer."""
    val_loss: float | None
    """Mean cross entropy of the validation samples, in nats, without label smoothing."""
    lr: float
    """Of the epoch's last step."""
    images_per_s: float
    """Training steps alone."""
    seconds: float
    """The epoch with its evaluation."""
    fetched_bytes: tuple[int, ...] | None = None
    """Of a remote cache, what each machine fetched since the epoch before, or since it was started; None of a local
    one."""
    stalled_s: float | None = None
    """How long the process that waited the longest waited for shards which had not come yet."""

    def line(self, num_epochs: int) -> str:
        """For people."""
        top1 = "not evaluated"
        if self.val_top1 is not None:
            top1 = f"validation loss {self.val_loss:.4f}, top-1 {100 * self.val_top1:.2f} %"
        return (
            f"epoch {self.epoch} of {num_epochs}: loss {self.train_loss:.4f}, {top1}, lr {self.lr:.3g}, "
            f"{self.images_per_s:.1f} images/s, {self.seconds:.1f} s{self._fetched()}"
        )

    def _fetched(self) -> str:
        if self.fetched_bytes is None:
            return ""
        machines = " + ".join(f"{num_bytes / 1e6:.1f}" for num_bytes in self.fetched_bytes)
        return f", {machines} MB fetched, {self.stalled_s:.1f} s waited for"


class MetricsLog:
    """Appends to a run's metrics.jsonl; a context manager."""

    def __init__(self, run: Path, epochs_done: int, steps_done: int, remembered: str | None = None) -> None:
        """Drops the lines of epochs that a checkpoint of `epochs_done` epochs does not know, since they come again.

        `remembered` is the `text` that the checkpoint holds; one of an older ci2p has none, and the file's own lines
        are taken then. Raises WorkError where those are no epochs' records.
        """
        self._path = run / "metrics.jsonl"
        if remembered is None:
            _keep_epochs(self._path, epochs_done)
            remembered = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        else:
            _restore(self._path, remembered)
        self.text = remembered
        """What the file holds: a checkpoint remembers it, since a disk may damage what it holds."""
        self._writer = _open_tensorboard(run, steps_done)

    def write(self, metrics: EpochMetrics) -> None:
        """Appends the line of an epoch."""
        line = json.dumps(asdict(metrics))
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self.text += line + "\n"
        if self._writer is not None:
            for name, value in asdict(metrics).items():
                if name not in ("epoch", "step") and value is not None:
                    self._writer.add_scalar(name, np.sum(value), metrics.step)
            self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl as they stand, without blank ones and a last one that a kill cut short.

    Raises WorkError for one that is no epoch's.
    """
    return _whole_lines(run / "metrics.jsonl")


def _keep_epochs(path: Path, epochs_done: int) -> None:
    if path.exists():
        lines = [line for line in _whole_lines(path) if line["epoch"] <= epochs_done]
        publish(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def _restore(path: Path, text: str) -> None:
    """Makes a file hold this text, and says so where more than later lines was different."""
    there = path.read_bytes() if path.exists() else b""
    if there != text.encode():
        if not there.startswith(text.encode()):
            logger.warning("%s is not as it was written; its lines are taken from the checkpoint", path)
        publish(path, text.encode())


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    # What a power cut leaves of a line may be zeros.
    return [_parsed(line.strip(_BLANK), number, path) for number, line in enumerate(lines, 1) if line.strip(_BLANK)]


def _parsed(line: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(line)
    except (ValueError, RecursionError):
        metrics = None
    if not isinstance(metrics, dict) or type(metrics.get("epoch")) is not int:
        raise WorkError(f"{path}: line {number} is no epoch's record; mend it, or take it out")
    return metrics


def _open_tensorboard(run: Path, steps_done: int) -> Any:
    """A SummaryWriter that hides events beyond `steps_done`, or None without TensorBoard."""
    if find_spec("tensorboard") is None:
        logger.debug("TensorBoard is not installed; no events are written")
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run), purge_step=steps_done + 1)
