"""Training images for a codec: random crops of a folder's files, as a function of (seed, step).

Legend: B images, S crop size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ci2p_cache.errors import WorkError
from ci2p_cache.printable import counted
from pipeline.encode.fit.images import Images, OnError, read_image, unusable
from pipeline.encode.fit.settings import FitSettings
from pipeline.encode.preprocess import BadImage
from pipeline.encode.workers import compute_ahead, in_shared_memory

_MOST_UNUSABLE = 1000  # images of one step

# Uint8 [B, 3, S, S], and why each image that was drawn and cannot be used cannot be, by index.
Batch = tuple[Tensor, dict[int, str]]


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
class _Batches(Dataset[Batch]):
    """Step -> its batch; what the worker processes hold. Step `first` is number 0."""

    images: Images
    settings: FitSettings
    first: int
    on_error: OnError

    def __getitem__(self, number: int) -> Batch:
        step = self.first + number
        generator = np.random.default_rng([self.settings.seed, step])
        size = self.settings.crop_size_at(step)
        failures: dict[int, str] = {}
        crops = []
        for index in generator.integers(len(self.images), size=self.settings.batch_size):
            image = self._usable(int(index), generator, failures)
            crops.append(random_crop(image, size, self.settings.scale, generator))
        return in_shared_memory(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)), failures

    def _usable(self, index: int, generator: np.random.Generator, failures: dict[int, str]) -> Image.Image:
        """The image at `index` or, under "skip", the first usable one of further draws.

        Images that cannot be used are added to `failures`. Raises WorkError for such a one under "stop", and when none
        or none of a thousand can be used.
        """
        while True:
            if index not in failures:
                try:
                    return read_image(self.images.path(index), self.images.max_pixels)
                except BadImage as error:
                    if self.on_error == "stop":
                        raise unusable(self.images.path(index), error.reason) from error
                    failures[index] = error.reason
                    if len(failures) == min(len(self.images), _MOST_UNUSABLE):
                        raise WorkError(
                            f"none of {counted(len(failures), 'image')} of {self.images.root} can be used (the last, "
                            f"{self.images.names[index]}: {error.reason}); mend them, or begin anew with another "
                            "--data-dir and --out"
                        ) from error
            index = int(generator.integers(len(self.images)))


def crop_batches(
    images: Images, settings: FitSettings, *, first_step: int, workers: int, pin: bool, on_error: OnError
) -> Iterator[Batch]:
    """Yields uint8 [B, 3, S, S], in channels-last memory, and the failures of every step from `first_step` on.

    Images are drawn with replacement; what a step sees depends on the files, the seed and the step alone: the place of
    an image that cannot be used is another draw's. Raises WorkError for such an image under "stop", when a step finds
    none that can be used, and as `compute_ahead` does.
    """
    largest = max((settings.crop_size_at(step) for step in range(first_step, settings.steps)), default=0)
    return compute_ahead(
        _Batches(images, settings, first_step, on_error),
        settings.steps - first_step,
        workers=workers,
        ahead=4,
        item_bytes=settings.batch_size * 3 * largest * largest,
        pin=pin,
        name=lambda number: f"step {first_step + number}",
    )
