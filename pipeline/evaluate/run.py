"""`ci2p eval` and `ci2p predict`: find the model, find what to measure it on, measure."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ci2p_cache.cache import open_cache
from ci2p_cache.errors import InputError
from ci2p_cache.spec import CacheSpec
from pipeline.baselines.pixels import PixelSpec, is_pixels
from pipeline.encode.datasets import ImageSplit, open_dataset
from pipeline.encode.decoding import default_workers
from pipeline.encode.encoder import resolve_device
from pipeline.evaluate.images import open_images, open_rendering, predict_files, predict_split
from pipeline.evaluate.predictions import Predictions, predict_cache, refuse_other_latents
from pipeline.evaluate.scores import Scores, Scoring
from pipeline.progress import progress
from pipeline.train.run_folder import RunConfig, load_model, newest_run


@dataclass(frozen=True)
class EvalReport:
    """What was measured, of what, on what."""

    scores: Scores
    checkpoint: str
    measured_on: str
    seconds: float

    @property
    def images_per_s(self) -> float:
        return self.scores.num_images / self.seconds

    def lines(self) -> list[str]:
        """For people."""
        return [f"{self.checkpoint} on {self.measured_on}, {self.images_per_s:.1f} images/s", *self.scores.lines()]

    def measured(self) -> dict[str, Any]:
        """For --json."""
        return self.scores.measured() | {
            "images_per_s": self.images_per_s,
            "checkpoint": self.checkpoint,
            "measured_on": self.measured_on,
        }


def evaluate(
    checkpoint: str | None,
    *,
    shards: str | None,
    images: str | None,
    split: str,
    tta: bool,
    weights: str,
    device: str,
    batch_size: int,
    workers: int | None,
) -> EvalReport:
    """Measures a run (the newest under runs/ by default) on a cache or on raw images; by default on its own data."""
    run, model, config, target = _open_model(checkpoint, device)
    threads = default_workers() if workers is None else workers
    reads_pixels = is_pixels(config.data.spec)
    if reads_pixels and shards is not None:
        raise InputError(f"--shards {shards}: the model of {run} reads pixels; give --images DIR, or neither")
    if images is not None or reads_pixels:
        rendering = open_rendering(config.data.spec, weights, device)
        image_split = _open_split(config, images, split)
        total, measured_on = len(image_split.keys), f"{images or config.data.path} (raw images)"
        predictions = predict_split(model, rendering, image_split, batch_size=batch_size, workers=threads, tta=tta)
    else:
        cache = open_cache(shards or config.data.path, split)
        refuse_other_latents(config, cache)
        total, measured_on = cache.num_samples, cache.split_dir
        predictions = predict_cache(
            model, cache, batch_size=batch_size, device=target, tta=tta, workers=max(1, threads)
        )
    begin = time.monotonic()
    scores = _score(predictions, config.data.classes, total)
    return EvalReport(scores, str(run), measured_on, time.monotonic() - begin)


def predict(checkpoint: str | None, files: Sequence[Path], *, weights: str, device: str) -> dict[str, dict[str, float]]:
    """File -> class -> probability, by a run (the newest under runs/ by default)."""
    _, model, config, _ = _open_model(checkpoint, device)
    rendering = open_rendering(config.data.spec, weights, device)
    return {
        str(file): dict(zip(config.data.classes, probabilities.tolist(), strict=True))
        for file, probabilities in predict_files(model, rendering, files)
    }


def _open_split(config: RunConfig, images: str | None, split: str) -> ImageSplit:
    """The split of a run's own data set, or of the images in another folder."""
    if not is_pixels(config.data.spec):
        assert images is not None
        spec = CacheSpec.model_validate(config.data.spec)
        return open_images(images, split, config.data.classes, dataset=spec.dataset, seed=spec.seed)
    own = PixelSpec.model_validate(config.data.spec)
    if images is not None:
        return open_images(images, split, config.data.classes, dataset=own.dataset, seed=own.data_seed)
    opened = open_dataset(own.dataset, own.data_dir, splits=[split], val_fraction=own.val_fraction, seed=own.data_seed)
    return opened[split]


def _open_model(checkpoint: str | None, device: str) -> tuple[Path, nn.Module, RunConfig, torch.device]:
    run = Path(checkpoint) if checkpoint else newest_run()
    model, config = load_model(run)
    target = resolve_device(device)
    return run, model.to(target), config, target


def _score(predictions: Iterable[Predictions], classes: tuple[str, ...], total: int) -> Scores:
    scoring = Scoring(classes)
    with progress("evaluate", total, "images") as advance:
        for batch in predictions:
            scoring.add(batch.probabilities, batch.labels)
            advance(len(batch.labels))
    return scoring.scores()
