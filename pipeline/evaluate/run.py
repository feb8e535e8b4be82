"""`ci2p eval` and `ci2p predict`: find the model, find what to measure it on, measure."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from ci2p_cache.cache import Cache, open_cache
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.known_images import HeldOut, KnownImages, held_out_of, known_images
from ci2p_cache.left_out import LeftOut, describe_left_out
from ci2p_cache.manifest import Failure
from ci2p_cache.spec import spec_of_record
from ci2p_cache.views import MIRROR
from pipeline.baselines.pixel_spec import PixelSpec, is_pixels, pixel_spec_of_record
from pipeline.baselines.pixels import open_pixel_data
from pipeline.encode.decoding import OnError, default_workers
from pipeline.encode.encoder import resolve_device
from pipeline.evaluate.held_out import ChosenImages, choose_images, refuse_changed
from pipeline.evaluate.images import Rendering, open_images, open_rendering, predict_split
from pipeline.evaluate.inputs import find_inputs
from pipeline.evaluate.onnx_model import SUFFIX, ImageRendering, OnnxModel, open_onnx
from pipeline.evaluate.predictions import Predictions, in_order, predict_cache, refuse_no_number, refuse_other_latents
from pipeline.evaluate.scores import Scores, Scoring
from pipeline.evaluate.tables import share, top_cells, top_columns, write_table
from pipeline.running.launched import Launched, gather, launched_as
from pipeline.running.pixel_limit import MAX_PIXELS
from pipeline.running.progress import progress
from pipeline.train.data_place import find_data
from pipeline.train.run_folder import DataRecord, RunConfig, newest_run, read_known_images
from pipeline.train.trained_model import load_model


@dataclass(frozen=True)
class EvalReport:
    """What was measured, of what, on what."""

    scores: Scores
    checkpoint: str
    measured_on: str
    seconds: float
    num_missing: int = 0  # images of the split that the folder lacks
    failures: tuple[Failure, ...] = ()  # images that were left out, under --on-error skip
    keys: Sequence[str] = ()  # of all that were to be measured
    predictions: tuple[Predictions, ...] = ()  # of those that were, by their place among the keys

    def write_csv(self, table: str) -> None:
        """key, label, prediction, probability of every image that was measured, sorted by key."""
        classes = tuple(self.scores.per_class)
        write_table(table, ("key", "label", "prediction", "probability"), sorted(self._rows(classes)))

    def _rows(self, classes: tuple[str, ...]) -> Iterator[tuple[str, str, str, str]]:
        for part in self.predictions:
            shares_B, predicted_B = part.probabilities.max(1)  # as `Scoring` takes it
            for row, place in enumerate(part.places.tolist()):
                label, predicted = int(part.labels[row]), int(predicted_B[row])
                yield self.keys[place], classes[label], classes[predicted], share(shares_B[row])

    @property
    def images_per_s(self) -> float:
        return self.scores.num_images / self.seconds

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"{self.checkpoint} on {self.measured_on}, {self.images_per_s:.1f} images/s"]
        if self.num_missing:
            lines.append(f"images of the split that are not there: {self.num_missing}")
        lines += [f"left out: {failure.key}: {failure.reason}" for failure in self.failures]
        return lines + self.scores.lines()

    def measured(self) -> dict[str, Any]:
        """For --json."""
        return self.scores.measured() | {
            "images_per_s": self.images_per_s,
            "checkpoint": self.checkpoint,
            "measured_on": self.measured_on,
            "num_missing": self.num_missing,
            "num_failed": len(self.failures),
            "failures": [failure.model_dump() for failure in self.failures],
        }


@dataclass(frozen=True)
class PredictReport:
    """What images were predicted to be, and which could not be: together all that were asked for."""

    keys: tuple[str, ...]
    probabilities: Tensor  # float32 [N, K]
    classes: tuple[str, ...]
    failures: tuple[Failure, ...]
    left_out: tuple[LeftOut, ...]  # what lies in folders besides
    num_repeated: int  # inputs that were named before

    def lines(self, top: int) -> list[str]:
        """For people: a line an image."""
        cells = [top_cells(row, self.classes, top) for row in self.probabilities]
        shares = [", ".join(f"{n} {100 * float(p):.1f} %" for n, p in zip(c[::2], c[1::2], strict=True)) for c in cells]
        return [f"{key}: {line}" for key, line in zip(self.keys, shares, strict=True)]

    def notes(self) -> list[str]:
        """For people: what was not predicted, or once only."""
        notes = [f"{failure.key}: {failure.reason}" for failure in self.failures]
        if self.left_out:
            notes.append(describe_left_out(self.left_out))
        if self.num_repeated:
            notes.append(f"inputs that were named twice and predicted once: {self.num_repeated}")
        return notes

    def measured(self) -> dict[str, dict[str, float]]:
        """For --json: key -> class -> probability."""
        return {
            key: dict(zip(self.classes, row.tolist(), strict=True))
            for key, row in zip(self.keys, self.probabilities, strict=True)
        }

    def write_csv(self, table: str, top: int) -> None:
        """key, class, probability, then those of the next likeliest."""
        top = min(top, len(self.classes))
        rows = (
            [key, *top_cells(row, self.classes, top)] for key, row in zip(self.keys, self.probabilities, strict=True)
        )
        write_table(table, ["key", *top_columns(top)], rows)

    def check(self) -> None:
        """Raises WorkError when an image could not be predicted; InputError when one was asked for, and is no image."""
        num_failed = len(self.failures) + sum(entry.count for entry in self.left_out if entry.pictures)
        num_asked = num_failed + len(self.keys)
        if num_asked == 1 and self.failures:
            raise InputError(f"{self.failures[0].key}: {self.failures[0].reason}; give the path of an image file")
        if num_failed:
            raise WorkError(f"{num_failed} of {num_asked} images could not be predicted; they are named above")


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
) -> EvalReport:
    """Measures a run (the newest under runs/ by default) on a cache or on raw images; by default on its own data.

    Of raw images of its own data set exactly those of the split are measured, found by key; of another folder all.
    With `images`, `shards` is the cache that knows the split, where that is not where the run left it.
    """
    launched = launched_as()
    run, model, data, target, reads_images = _open_model(checkpoint, device, launched.local_rank)
    threads = default_workers() if workers is None else workers
    reads_pixels = is_pixels(data.spec)
    if reads_images and images is None and not reads_pixels:
        raise InputError(f"{run} reads images; give --images DIR, or for a cache the exported file that reads latents")
    if reads_pixels and shards is not None:
        raise InputError(f"--shards {shards}: the model of {run} reads pixels; give --images DIR, or neither")
    failures: list[Failure] = []
    num_missing = 0
    if images is not None or reads_pixels:
        rendering = _rendering(model, data, weights, target)
        chosen = _choose_images(run, data, images, split, shards)
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
        cache = open_cache(shards or find_data(data, run), split)
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


def images_of_run(run: Path, config: RunConfig, images: str) -> ChosenImages:
    """The images of a folder that a run's validation split holds, or all where it holds none of them."""
    return _choose_images(run, config.data, images, "val", None)


def _choose_images(run: Path, data: DataRecord, images: str | None, split: str, shards: str | None) -> ChosenImages:
    """What is measured of a folder of images: see `held_out`."""
    spec = data.spec
    if is_pixels(spec):
        own = pixel_spec_of_record(spec)
        dataset, seed, val_fraction, folder = (
            own.dataset,
            own.data_seed,
            own.val_fraction,
            images or _pixel_folder(run, data, own),
        )
    else:
        of_cache = spec_of_record(spec)
        dataset, seed, val_fraction, folder = of_cache.dataset, of_cache.seed, of_cache.val_fraction, images
    is_held_out = val_fraction is not None
    pool = open_images(folder, split, dataset=dataset, is_held_out=is_held_out, seed=seed)
    known, wanted = _known_images(run, data, split, shards)
    return choose_images(pool, folder or dataset, split, known, wanted, data.classes)


def _known_images(run: Path, data: DataRecord, split: str, shards: str | None) -> tuple[KnownImages, HeldOut]:
    """What a run was trained on, and the images of a split: by the run itself, or by the cache that it was made from.

    Raises InputError where neither is there to ask.
    """
    known = None if shards else read_known_images(run)
    if known is not None and split == "val":
        return known, known.held_out
    if is_pixels(data.spec):
        if split != "val":
            raise InputError(f"--split {split}: {run} reads pixels and knows its images of val alone; give --split val")
        own = pixel_spec_of_record(data.spec)  # of an older ci2p: it kept how val was drawn, not what it is
        known = open_pixel_data(
            own.dataset,
            _pixel_folder(run, data, own),
            workers=0,
            val_fraction=own.val_fraction,
            data_seed=own.data_seed,
        ).known_images()
        return known, known.held_out
    path = shards or find_data(data, run)
    try:
        if known is None:
            known = known_images(open_cache(path, "train"), open_cache(path, "val"))
        return known, known.held_out if split == "val" else held_out_of(open_cache(path, split), known.by)
    except InputError as error:
        raise InputError(
            f"--images: which images were held out is known by the cache {path}, and it cannot be asked ({error}); "
            "give it as --shards CACHE"
        ) from error


def _pixel_folder(run: Path, data: DataRecord, own: PixelSpec) -> str | None:
    """Where a baseline's images are; what was no folder then (a pattern, a name of Hugging Face's) is as it was."""
    return find_data(data, run, "--images DIR") if data.absolute_path else own.data_dir


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
