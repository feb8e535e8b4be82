"""What a training leaves beside its metrics for people: curves.png and confusion.png."""

import logging
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from ci2p_cache.publish import publish
from pipeline.evaluate.predictions import predict_inputs
from pipeline.evaluate.scores import Scores, Scoring
from pipeline.train.data import Share, TrainingData
from pipeline.train.run_folder import METRICS, read_config
from pipeline.train.trained_model import load_model

logger = logging.getLogger("ci2p")

CURVES, CONFUSION = "curves.png", "confusion.png"


def leave_pictures(
    run: Path, data: TrainingData, device: str, *, finished: bool, confusion: list[list[int]] | None = None
) -> list[Path]:
    """Draws a run's curves and, of a finished one, what its best weights confuse; returns what was written.

    The `confusion` is that of their evaluation in training; without it they are evaluated once more.
    Nothing is drawn twice, and nothing without matplotlib. Nothing is raised either, for the training is over and its
    results are on the disk: a picture that cannot be drawn is a line in the log.
    """
    if find_spec("matplotlib") is None or not (run / METRICS).exists():
        return []
    wanted: dict[str, Callable[[], bytes]] = {CURVES: partial(_curves, run)}
    if finished:
        wanted[CONFUSION] = partial(_confusion, run, data, device, confusion)
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


def score(run: Path, data: TrainingData, device: str) -> Scores:
    """Of a run's best weights on its validation split, as `ci2p eval` has them."""
    model, config = load_model(run)
    target = torch.device(device)
    model = model.to(target)
    scoring = Scoring(config.data.classes)
    for batch in data.val_batches(Share(0, 1, target), batch_size=config.recipe.batch_size).epoch(0):
        scoring.add(predict_inputs(model, batch.latents[:, None]), batch.labels.cpu())
    return scoring.scores()


def _curves(run: Path) -> bytes:
    from pipeline.report.curves import draw_panels
    from pipeline.report.look import as_png
    from pipeline.report.run_record import read_run
    from pipeline.report.settings import group_by_setting

    return as_png(partial(draw_panels, group_by_setting([read_run(run)])))


def _confusion(run: Path, data: TrainingData, device: str, confusion: list[list[int]] | None) -> bytes:
    from pipeline.report.confusion import draw_confusion
    from pipeline.report.look import as_png

    if confusion is None:
        confusion = score(run, data, device).confusion
    num_images, num_right = sum(map(sum, confusion)), sum(row[label] for label, row in enumerate(confusion))
    chart = partial(draw_confusion, confusion, read_config(run).data.classes)
    title = f"{run.resolve().name}: top-1 {100 * num_right / num_images:.2f} %, {num_images:,} images"
    return as_png(chart, title)
