"""Raw images -> latents, exactly as the cache that a model was trained on was made: from its spec.

Legend: B images, V views, C, H, W of a latent.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ci2p_cache import codecs
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.spec import CacheSpec
from ci2p_cache.views import whole_views
from pipeline.encode.datasets import ImageSplit, open_dataset
from pipeline.encode.datasets.folder import class_split, subfolders
from pipeline.encode.decoding import decode_batches
from pipeline.encode.encoder import Encoder, load_encoder
from pipeline.encode.preprocess import BadImage, Preprocessing, load_pixels
from pipeline.evaluate.predictions import Predictions, predict_latents


@dataclass(frozen=True)
class Rendering:
    """How a spec turns pixels into the latents that its cache would give back."""

    spec: CacheSpec
    encoder: Encoder

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(self.spec.image_size, self.spec.short_edge, self.spec.resize_mode)

    def latents(self, pixels: Tensor, views: tuple[str, ...]) -> Tensor:
        """uint8 RGB [B, 3, S, S] -> latents float32 [B, V, C, H, W] after the store's rounding, on the device."""
        exact = self.encoder.views(pixels, views).cpu().numpy()
        stored = codecs.quantise(exact, self.spec.store, self.spec.step)
        return torch.from_numpy(codecs.dequantise(stored, self.spec.store, self.spec.step)).to(self.encoder.device)


def open_rendering(spec: CacheSpec, weights: str, device: str) -> Rendering:
    """The encoder of `--weights`, once it is known to be the one that made the cache. Raises InputError if not."""
    encoder = load_encoder(weights, device)
    if encoder.weights_sha256 != spec.weights_sha256:
        raise InputError(
            f"--weights {weights} is not the encoder that the model's cache was made with: its weights_sha256 begins "
            f"with {encoder.weights_sha256[:12]} and the cache's with {spec.weights_sha256[:12]}; give that one"
        )
    return Rendering(spec, encoder)


def open_images(folder: str, split: str, spec: CacheSpec, classes: tuple[str, ...]) -> ImageSplit:
    """The labelled images of `--images`: all of FOLDER/CLASS or FOLDER/SPLIT/CLASS, or the split of a data set.

    The last is read as the cache's own data set was (ImageNet's tars, say). Raises InputError for a folder that is not
    there or whose classes the model does not know.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise InputError(f"--images {folder}: there is no such folder")
    for candidate in (root, root / split):
        if candidate.is_dir() and set(subfolders(candidate)) & set(classes):
            found = subfolders(candidate)
            unknown = sorted(set(found) - set(classes))
            if unknown:
                raise InputError(f"--images {candidate}: the model does not know the class {unknown[0]}; remove it")
            return class_split(candidate, {name: name for name in found}, classes)
    if spec.dataset in ("sample", "folder"):
        raise InputError(
            f"--images {folder}: no folder in it, or in {split}/, bears the name of a class of the model "
            f"({', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''})"
        )
    opened = open_dataset(spec.dataset, folder, splits=[split], val_fraction=None, seed=spec.seed)[split]
    if tuple(opened.classes) != classes:
        odd = sorted(set(opened.classes) ^ set(classes)) or ["their order"]
        raise InputError(f"--images {folder} has other classes than the model ({odd[0]})")
    return opened


def predict_split(
    model: nn.Module, rendering: Rendering, split: ImageSplit, *, batch_size: int, workers: int, tta: bool = False
) -> Iterator[Predictions]:
    """Every image of a split once, through encoder and model. Raises WorkError for one that cannot be decoded."""
    views = whole_views(rendering.spec.views) if tta else rendering.spec.views[:1]
    items = range(len(split.keys))
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    pin = rendering.encoder.device.type == "cuda"
    for batch in decode_batches(split, rendering.preprocessing, batches, workers=workers, pin=pin):
        if batch.failures:
            raise WorkError(f"image {batch.failures[0].key}: {batch.failures[0].reason}; mend or remove it")
        (plain,) = batch.pixels
        latents = rendering.latents(plain, views)
        labels = torch.from_numpy(np.asarray(split.labels)[batch.indices])
        yield Predictions(predict_latents(model, latents), labels)


def predict_files(model: nn.Module, rendering: Rendering, files: Sequence[Path]) -> Iterator[tuple[Path, Tensor]]:
    """(file, probabilities float32 [K]) one after another. Raises InputError for a file that is no usable image."""
    views = rendering.spec.views[:1]
    for file in files:
        try:
            pixels = load_pixels(file.read_bytes(), rendering.preprocessing)
        except (OSError, BadImage) as error:
            reason = error.reason if isinstance(error, BadImage) else error.strerror
            raise InputError(f"{file}: {reason}; give the path of an image file") from error
        latents = rendering.latents(torch.from_numpy(pixels)[None], views)
        yield file, predict_latents(model, latents)[0]
