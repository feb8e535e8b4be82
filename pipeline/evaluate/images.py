"""Raw images -> what a model reads, exactly as its training data were made: from their spec.

Legend: B images, V views, C, H, W of a latent; of a pixel baseline, C = 3 and H = W the image size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ci2p_cache import codecs
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.marker import Failure
from ci2p_cache.spec import CacheSpec, spec_of_record
from ci2p_cache.views import PLAIN
from pipeline.baselines.pixel_batches import to_floats
from pipeline.baselines.pixel_spec import PixelSpec, is_pixels, pixel_spec_of_record
from pipeline.baselines.pixels import VIEWS
from pipeline.encode.datasets import ImageSplit, open_pool
from pipeline.encode.datasets.split import SourceSplit
from pipeline.encode.decoding import MEND_IT, OnError, decode_batches
from pipeline.encode.encoder import Encoder, load_encoder
from pipeline.encode.preprocess import Preprocessing, preprocessing_of
from pipeline.evaluate.predictions import Predictions, predict_inputs
from pipeline.running.devices import resolve_device
from pipeline.running.launched import ALONE, Launched
from pipeline.running.pixel_limit import MAX_PIXELS


class Rendering(Protocol):
    """How images become what a model reads."""

    @property
    def preprocessing(self) -> Preprocessing: ...

    @property
    def views(self) -> tuple[str, ...]:
        """Those that evaluation may average over, the plain one first."""

    @property
    def device(self) -> torch.device: ...

    def inputs(self, pixels: Tensor, views: tuple[str, ...]) -> Tensor:
        """uint8 RGB [B, 3, S, S] -> float32 [B, V, C, H, W] on the device."""


@dataclass(frozen=True)
class LatentRendering:
    """Pixels -> the latents that a cache of this spec would give back."""

    spec: CacheSpec
    encoder: Encoder

    @property
    def preprocessing(self) -> Preprocessing:
        return preprocessing_of(self.spec)

    @property
    def views(self) -> tuple[str, ...]:
        return VIEWS  # the mirror image is encoded, be it in the cache or not

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    def inputs(self, pixels: Tensor, views: tuple[str, ...]) -> Tensor:
        """As `Rendering` says; latents after the store's rounding."""
        exact = self.encoder.views(pixels, views).cpu().numpy()
        stored = codecs.quantise(exact, self.spec.store, self.spec.step)
        return torch.from_numpy(codecs.dequantise(stored, self.spec.store, self.spec.step)).to(self.device)


@dataclass(frozen=True)
class PixelRendering:
    """Pixels as a baseline reads them."""

    spec: PixelSpec
    device: torch.device

    @property
    def preprocessing(self) -> Preprocessing:
        return self.spec.preprocessing

    @property
    def views(self) -> tuple[str, ...]:
        return VIEWS

    def inputs(self, pixels: Tensor, views: tuple[str, ...]) -> Tensor:
        """As `Rendering` says; values in [0, 1]."""
        floats = to_floats(pixels, self.device)
        return torch.stack([floats if view == PLAIN else floats.flip(-1) for view in views], dim=1)


def open_rendering(spec: dict[str, Any], weights: str, device: str | torch.device) -> Rendering:
    """The way from images to the inputs of a run with this spec; of latents, by the encoder of `--weights`.

    Raises InputError unless that is the encoder that made the cache.
    """
    if is_pixels(spec):
        if weights != "bundled":
            raise InputError(f"--weights {weights}: this model reads pixels and needs no encoder; leave the option out")
        return PixelRendering(pixel_spec_of_record(spec), resolve_device(device))
    cache_spec = spec_of_record(spec)
    encoder = load_encoder(weights, device)
    if encoder.weights_sha256 != cache_spec.weights_sha256:
        raise InputError(
            f"--weights {weights} is not the encoder that the model's cache was made with: its weights_sha256 begins "
            f"with {encoder.weights_sha256[:12]} and the cache's with {cache_spec.weights_sha256[:12]}; give that one"
        )
    return LatentRendering(cache_spec, encoder)


def open_images(
    folder: str | None,
    split: str,
    *,
    dataset: str,
    is_held_out: bool,
    seed: int,
    columns: tuple[str, ...] | None = None,
    classes: Sequence[str] | None = None,
) -> SourceSplit:
    """All images that a folder has for a split: laid out as the model's data set, or as class folders.

    Raises InputError, speaking of `--images`, when it is neither.
    """
    try:
        return open_pool(dataset, folder, split, is_held_out=is_held_out, seed=seed, columns=columns, classes=classes)
    except InputError as error:
        complaint = error
        if folder is not None and dataset != "folder":
            try:
                return open_pool("folder", folder, split, is_held_out=is_held_out, seed=seed)
            except InputError as no_folder:
                complaint = no_folder if dataset == "sample" else error
        raise InputError(str(complaint).replace("--data-dir", "--images")) from error


def predict_split(
    model: nn.Module,
    rendering: Rendering,
    split: ImageSplit,
    failures: list[Failure],
    *,
    batch_size: int,
    workers: int,
    on_error: OnError = "stop",
    tta: bool = False,
    max_pixels: int = MAX_PIXELS,
    launched: Launched = ALONE,
) -> Iterator[Predictions]:
    """This process's share of a split's images, from file to model; all processes have every image once.

    One that cannot be decoded raises WorkError, or under "skip" goes into `failures`.
    """
    views = rendering.views if tta else rendering.views[:1]
    items = range(len(split.keys))
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    batches = batches[launched.rank :: launched.world_size]
    preprocessing, pin = replace(rendering.preprocessing, max_pixels=max_pixels), rendering.device.type == "cuda"
    for batch in decode_batches(split, preprocessing, batches, workers=workers, pin=pin):
        if batch.failures and on_error == "stop":
            raise WorkError(f"image {batch.failures[0].key}: {batch.failures[0].reason}; {MEND_IT}")
        failures += batch.failures
        if batch.indices:
            (plain,) = batch.pixels
            inputs = rendering.inputs(plain, views)
            labels = torch.from_numpy(np.asarray(split.labels)[batch.indices])
            yield Predictions(predict_inputs(model, inputs), labels, np.array(batch.indices, dtype=np.int64))
