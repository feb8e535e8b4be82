"""Training images for a codec: random crops of a folder's files, as a function of (seed, step).

Legend: B images, S crop size.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.left_out import LeftOutFiles, describe_left_out
from pipeline.encode.datasets.listing import image_files
from pipeline.encode.fit.settings import FitSettings
from pipeline.encode.preprocess import BadImage, decode, unreadable
from pipeline.encode.workers import compute_ahead, in_shared_memory

logger = logging.getLogger("ci2p")


def list_images(folder: str, option: str) -> list[Path]:
    """All image files below a folder, at any depth, sorted. Raises InputError when there is none."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise InputError(f"{option} {folder}: there is no such folder; give one with images in it, at any depth")
    root = root.resolve()
    left_out = LeftOutFiles()
    names = image_files(root.parent, root.name, left_out)
    if left_out.listed():
        logger.warning("%s: %s", root, describe_left_out(left_out.listed()))
    if not names:
        raise InputError(f"{option} {folder}: no images below it; give a folder with images in it, at any depth")
    return [root.parent / name for name in sorted(names)]


def read_image(path: Path) -> Image.Image:
    """An RGB image of its own size. Raises WorkError, naming the file, when it cannot be used."""
    try:
        return decode(path.read_bytes())
    except (OSError, BadImage) as error:
        reason = error.reason if isinstance(error, BadImage) else unreadable(error)
        raise WorkError(f"{path}: {reason}; mend or remove it, and run the same command again") from error


def random_crop(
    image: Image.Image, size: int, scale: tuple[float, float], generator: np.random.Generator
) -> NDArray[np.uint8]:
    """A random square of an image, resized by a random factor within `scale` and mirrored in one case of two.

    Returns uint8 RGB [S, S, 3]. A picture that is too small for the factor drawn is enlarged as far as it must be.
    """
    factor = max(generator.uniform(*scale), size / min(image.size))
    edge = min(size / factor, min(image.size))
    left, top = (generator.uniform(0, length - edge) for length in image.size)
    if factor == 1.0:
        left, top, edge = round(left), round(top), size
    crop = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + edge, top + edge))
    pixels = np.asarray(crop)
    return pixels[:, ::-1] if generator.random() < 0.5 else pixels


@dataclass(frozen=True)
class _Batches(Dataset[Tensor]):
    """Step -> its batch; what the worker processes hold. Step `first` is number 0."""

    files: tuple[Path, ...]
    settings: FitSettings
    first: int

    def __getitem__(self, number: int) -> Tensor:
        step = self.first + number
        generator = np.random.default_rng([self.settings.seed, step])
        size = self.settings.crop_size_at(step)
        crops = [
            random_crop(read_image(self.files[index]), size, self.settings.scale, generator)
            for index in generator.integers(len(self.files), size=self.settings.batch_size)
        ]
        return in_shared_memory(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2))


def crop_batches(
    files: list[Path], settings: FitSettings, *, first_step: int, workers: int, pin: bool
) -> Iterator[Tensor]:
    """Yields uint8 [B, 3, S, S], in channels-last memory, for every step from `first_step` on.

    Images are drawn with replacement; what a step sees depends on the files, the seed and the step alone. Raises as
    `compute_ahead` does.
    """
    largest = max(settings.crop_size_at(step) for step in range(first_step, settings.steps)) if files else 0
    return compute_ahead(
        _Batches(tuple(files), settings, first_step),
        settings.steps - first_step,
        workers=workers,
        ahead=4,
        item_bytes=settings.batch_size * 3 * largest * largest,
        pin=pin,
        name=lambda number: f"step {first_step + number}",
    )
