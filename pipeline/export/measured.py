"""What was measured of the weights that a run keeps, as its metrics.jsonl has it."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.train.checkpoint import newest_checkpoint
from pipeline.train.metrics_log import read_metrics
from pipeline.train.run_folder import BEST, read_known_images
from pipeline.train.weights_file import read_seal

_TOP = 5


@dataclass(frozen=True)
class Measured:
    """Of one epoch's weights, on the validation split."""

    epoch: int
    top1: float
    """In [0, 1]; this one chose the epoch."""
    top5: float | None
    """None of five classes or fewer, where it would be 1 whatever the weights."""
    loss: float
    """Mean cross entropy in nats."""
    num_images: int | None
    """None where the run does not say."""


def measured_of(run: Path, weights: Path, num_classes: int) -> Measured | None:
    """What metrics.jsonl says of the run's best weights; None for others, or where it is not sure whose they are.

    The checkpoint bears the seal of its own; one of an older ci2p does not, and where lines have come after it the
    weights may have, too. Raises WorkError for damage.
    """
    newest = newest_checkpoint(run) if weights == run / BEST else None
    if newest is None:
        return None
    progress, lines = newest[0].progress, read_metrics(run)
    if newest[0].best is None:
        is_sure = bool(lines) and lines[-1]["epoch"] == progress.epoch
    else:
        is_sure = newest[0].best == read_seal(weights)
    if not is_sure:
        return None
    for line in lines:
        if line["epoch"] == progress.best_epoch and line.get("val_top1") == progress.best_top1:
            known = read_known_images(run)
            count = None if known is None else len(known.held_out.ids)
            top5 = line["val_top5"] if num_classes > _TOP else None
            return Measured(line["epoch"], line["val_top1"], top5, line["val_loss"], count)
    return None
