"""`ci2p eval` and `ci2p predict`: find the model, find what to measure it on, measure."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import torch
from torch import nn

from ci2p_cache.cache import Cache, open_cache
from ci2p_cache.disk_cache import LocalDisk
from ci2p_cache.errors import InputError
from ci2p_cache.marker import Failure
from ci2p_cache.views import MIRROR
from pipeline.baselines.on_the_fly_record import images_of_record
from pipeline.baselines.pixel_spec import is_pixels
from pipeline.encode.decoding import OnError, default_workers
from pipeline.evaluate.held_out import refuse_changed
from pipeline.evaluate.images import Rendering, open_rendering, predict_split
from pipeline.evaluate.inputs import find_inputs
from pipeline.evaluate.onnx_model import SUFFIX, ImageRendering, OnnxModel, open_onnx
from pipeline.evaluate.predictions import Predictions, in_order, predict_cache, refuse_no_number, refuse_other_latents
from pipeline.evaluate.reports import EvalReport, PredictReport
from pipeline.evaluate.run_images import images_of_split
from pipeline.evaluate.scores import Scores, Scoring
from pipeline.running.devices import resolve_device
from pipeline.running.launched import Launched, gather, launched_as
from pipeline.running.pixel_limit import MAX_PIXELS
from pipeline.running.progress import progress
from pipeline.train.data_place import find_data
from pipeline.train.run_folder import DataRecord, newest_run
from pipeline.train.trained_model import load_model


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
    on_error: OnError = "stop",
    max_pixels: int = MAX_PIXELS,
    disk: LocalDisk | None = None,
) -> EvalReport:
    """Measures a run (the newest under runs/ by default) on a cache or on raw images; by default on its own data.

    Of raw images of its own data set exactly those of the split are measured, found by key; of another folder all.
    With `images`, `shards` is the cache that knows the split, where that is not where the run left it. A remote cache
    is kept on a `disk`.
    """
    launched = launched_as()
    run, model, data, target, reads_images = _open_model(checkpoint, device, launched.local_rank)
    threads = default_workers() if workers is None else workers
    reads_pixels = is_pixels(data.spec)
    # Images that no cache knows, where none is given that does.
    has_images = reads_pixels or (shards is None and images_of_record(data.spec) is not None)
    if reads_images and images is None and not has_images:
        raise InputError(f"{run} reads images; give --images DIR, or for a cache the exported file that reads latents")
    if reads_pixels and shards is not None:
        raise InputError(f"--shards {shards}: the model of {run} reads pixels; give --images DIR, or neither")
    failures: list[Failure] = []
    num_missing = 0
    if images is not None or has_images:
        rendering = _rendering(model, data, weights, target)
        chosen = images_of_split(run, data, images, split, shards)
        if chosen.changed and on_error == "stop":
            refuse_changed(chosen)
        failures += [Failure(key=key, reason="it has changed since it was encoded") for key in chosen.changed]
        keys, measured_on, num_missing = chosen.keys, chosen.described, chosen.num_missing
        predictions = predict_split(
            model,
            rendering,
            chosen,
            failures,
            batch_size=batch_size,
            workers=threads,
            on_error=on_error,
            tta=tta,
            max_pixels=max_pixels,
            launched=launched,
        )
    else:
        cache = open_cache(shards or find_data(data, run), split, disk)
        refuse_other_latents(data, cache)
        if tta and MIRROR not in cache.spec.views:
            raise InputError(
                f"--tta: {cache.split_dir} holds no mirror images (it was encoded with --views plain); "
                "give --images DIR, whose mirror images are encoded, or leave --tta out"
            )
        measured_on = cache.split_dir
        keys = _StoredKeys(cache)
        if split == "train":
            measured_on += ", which the model was trained on"
        predictions = predict_cache(
            model, cache, batch_size=batch_size, device=target, tta=tta, workers=max(1, threads), launched=launched
        )
    begin = time.monotonic()
    made = _run(predictions, keys, launched)
    if launched.world_size > 1:
        shares = gather((made, failures), launched)
        made = tuple(in_order([part for parts, _ in shares for part in parts], batch_size))
        failures = sorted((each for _, failed in shares for each in failed), key=lambda failure: failure.key)
    scores = _score(made, data.classes)
    seconds = time.monotonic() - begin
    return EvalReport(scores, str(run), measured_on, seconds, num_missing, tuple(failures), keys, made)


def predict(
    checkpoint: str | None,
    inputs: Sequence[str],
    *,
    weights: str,
    device: str,
    batch_size: int = 64,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> PredictReport:
    """Classifies images by a run (the newest under runs/ by default). Those that cannot be used are in `failures`.

    Raises InputError for a folder or pattern without images.
    """
    _, model, data, target, _ = _open_model(checkpoint, device)
    rendering = _rendering(model, data, weights, target)
    images = find_inputs(inputs)
    failures: list[Failure] = []
    parts: list[Predictions] = []
    with progress("predict", len(images.keys), "images", quiet=len(images.keys) <= batch_size) as advance:
        done = 0
        threads = default_workers() if workers is None else workers
        for part in predict_split(
            model,
            rendering,
            images,
            failures,
            batch_size=batch_size,
            workers=threads if len(images.keys) > batch_size else 0,
            on_error="skip",
            max_pixels=max_pixels,
        ):
            refuse_no_number(part, images.keys)
            parts.append(part)
            now = sum(len(each.labels) for each in parts) + len(failures)
            advance(now - done)
            done = now
        advance(len(images.keys) - done)
    rows = [torch.empty(0, len(data.classes)), *(part.probabilities for part in parts)]
    keys = tuple(images.keys[place] for part in parts for place in part.places.tolist())
    return PredictReport(keys, torch.cat(rows), data.classes, tuple(failures), images.left_out, images.num_repeated)


@dataclass(frozen=True)
class _StoredKeys(Sequence[str]):
    """The keys of a split's samples; its item list is read when one is asked for."""

    cache: Cache

    def __len__(self) -> int:
        return self.cache.num_samples

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self._keys[index]

    @cached_property
    def _keys(self) -> Sequence[str]:
        return self.cache.read_keys()


def _open_model(
    checkpoint: str | None, device: str, local_rank: int = 0
) -> tuple[Path, nn.Module, DataRecord, torch.device, bool]:
    """The run or file, its model, what it was trained on, its device, and whether it reads images."""
    run = Path(checkpoint) if checkpoint else newest_run()
    if run.suffix == SUFFIX:
        if resolve_device("cpu" if device == "auto" else device).type != "cpu":
            raise InputError(f"--device {device}: an ONNX file is run on the CPU here; leave the option out")
        exported = open_onnx(run)
        return run, exported, exported.record.data, torch.device("cpu"), exported.record.reads != "latents"
    model, config = load_model(run)
    target = resolve_device(device, local_rank)
    return run, model.to(target), config.data, target, is_pixels(config.data.spec)


def _rendering(model: nn.Module, data: DataRecord, weights: str, device: torch.device) -> Rendering:
    """The way from images to what the model reads; an exported file of images has its encoder inside."""
    if isinstance(model, OnnxModel) and model.record.reads != "latents":
        if weights != "bundled":
            raise InputError(f"--weights {weights}: this file has its encoder inside; leave the option out")
        return ImageRendering(data, reads_floats=model.record.reads == "float")
    return open_rendering(data.spec, weights, device)


def _run(predictions: Iterable[Predictions], keys: Sequence[str], launched: Launched) -> tuple[Predictions, ...]:
    """This process's predictions, made one after another. Rank 0 shows how far it is, as if all were as far.

    Raises WorkError for one that is no number.
    """
    made = []
    done, total = 0, len(keys)
    with progress("evaluate", total, "images", quiet=launched.rank > 0) as advance:
        for batch in predictions:
            refuse_no_number(batch, keys)
            made.append(batch)
            now = min(done + len(batch.labels) * launched.world_size, total)
            advance(now - done)
            done = now
    return tuple(made)


def _score(predictions: Iterable[Predictions], classes: tuple[str, ...]) -> Scores:
    scoring = Scoring(classes)
    for batch in predictions:
        scoring.add(batch.probabilities, batch.labels)
    return scoring.scores()
