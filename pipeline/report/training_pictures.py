"""What a training leaves beside its metrics for people: curves.png and confusion.png. Legend: B batch, K classes."""

import logging
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from ci2p_cache.publish import publish
from pipeline.train.data import Share, TrainingData
from pipeline.train.run_folder import METRICS, read_config
from pipeline.train.trained_model import load_model

logger = logging.getLogger("ci2p")

CURVES, CONFUSION = "curves.png", "confusion.png"


def leave_pictures(run: Path, data: TrainingData, device: str, *, finished: bool) -> list[Path]:
    """Draws a run's curves and, of a finished one, what its best weights confuse; returns what was written.

    Nothing is drawn twice, and nothing without matplotlib. Nothing is raised either, for the training is over and its
    results are on the disk: a picture that cannot be drawn is a line in the log.
    """
    if find_spec("matplotlib") is None or not (run / METRICS).exists():
        return []
    wanted: dict[str, Callable[[], bytes]] = {CURVES: partial(_curves, run)}
    if finished:
        wanted[CONFUSION] = partial(_confusion, run, data, device)
    written = []
    for name, drawn in wanted.items():
        path = run / name
        try:
            if (run / METRICS).stat().st_mtime > (path.stat().st_mtime if path.exists() else 0):
                publish(path, drawn())
                written.append(path)
        except Exception as error:  # noqa: BLE001  (whatever it is, the training must not fail of it)
            why = " ".join(str(error).split())[:200]
            logger.warning("%s was not drawn (%s); `ci2p report %s` draws it later", path, why, run)
    return written


def count_confusion(run: Path, data: TrainingData, device: str) -> list[list[int]]:
    """Of the validation split, by the run's best weights: [K][K], row: the label, column: the prediction."""
    model, config = load_model(run)
    target, K = torch.device(device), len(config.data.classes)
    counts_KK = torch.zeros(K, K, dtype=torch.int64)
    model = model.to(target)
    batches = data.val_batches(Share(0, 1, target), batch_size=config.recipe.batch_size)
    with torch.inference_mode():
        for batch in batches.epoch(0):
            predicted_B, labels_B = model(batch.latents).argmax(1).cpu(), batch.labels.cpu()
            counts_KK.index_put_((labels_B, predicted_B), torch.ones_like(labels_B), accumulate=True)
    counts: list[list[int]] = counts_KK.tolist()
    return counts


def _curves(run: Path) -> bytes:
    from pipeline.report.curves import draw_panels
    from pipeline.report.look import as_png
    from pipeline.report.run_record import read_run
    from pipeline.report.settings import group_by_setting

    return as_png(partial(draw_panels, group_by_setting([read_run(run)])))


def _confusion(run: Path, data: TrainingData, device: str) -> bytes:
    from pipeline.report.confusion import draw_confusion
    from pipeline.report.look import as_png

    counts = count_confusion(run, data, device)
    total = sum(map(sum, counts))
    top1 = sum(row[k] for k, row in enumerate(counts)) / max(1, total)
    chart = partial(draw_confusion, counts, read_config(run).data.classes)
    return as_png(chart, f"{run.resolve().name}: top-1 {100 * top1:.2f} %, {total:,} images")
