"""Image files -> batches of pixels, in worker processes that run ahead of the encoder.

Legend: B images, R renderings of each (the plain one, then its crops; or one crop alone; never their mirror images),
S image size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ci2p_cache.items import ImageContent, hash_content
from ci2p_cache.marker import Failure
from pipeline.encode.crops import NO_CROPS, Crops, load_crop, load_renderings
from pipeline.encode.datasets.split import ImageSplit
from pipeline.encode.preprocess import BadImage, Preprocessing, unreadable
from pipeline.encode.workers import compute_ahead, in_shared_memory
from pipeline.encode.workers import default_workers as default_workers

OnError = Literal["stop", "skip"]
NumberOfCrop = Callable[[int], int]  # the number of a batch -> that of the crop of its images
MEND_IT = "mend it, or use --on-error skip to leave such images out and count them"

_BATCHES_AHEAD = 4  # of each worker; fewer with crops, for a batch of them takes as many times the memory


@dataclass(frozen=True)
class PixelBatch:
    """Some items of a split: the pixels of those that decoded, and why the others did not."""

    indices: list[int]  # of the items that decoded, into the split
    pixels: Tensor  # uint8 [R, len(indices), 3, S, S]
    failures: list[Failure]
    contents: dict[int, ImageContent]  # of every item whose file was read, by its index

    def pin_memory(self) -> "PixelBatch":
        """The same in memory that a GPU copies from while others compute; the DataLoader asks for it by this name."""
        return replace(self, pixels=self.pixels.pin_memory())


class _PixelBatches(Dataset[PixelBatch]):
    """Batch number -> its pixels; what the worker processes hold."""

    def __init__(
        self,
        split: ImageSplit,
        preprocessing: Preprocessing,
        crops: Crops,
        only: NumberOfCrop | None,
        batches: Sequence[Sequence[int]],
    ):
        self._split = split
        self._preprocessing = preprocessing
        self._crops = crops
        self._only = only
        self._batches = batches

    def __getitem__(self, number: int) -> PixelBatch:
        size = self._preprocessing.image_size
        indices: list[int] = []
        images: list[NDArray[np.uint8]] = []
        failures: list[Failure] = []
        contents: dict[int, ImageContent] = {}
        for index in self._batches[number]:
            key = self._split.keys[index]
            try:
                data, contents[index] = read_item(self._split, index)
                images.append(self._render(data, key, number))
                indices.append(index)
            except BadImage as error:
                failures.append(Failure(key=key, reason=error.reason))
        nothing = np.empty((_num_renderings(self._crops, self._only), 0, 3, size, size), np.uint8)
        pixels = np.stack(images, axis=1) if images else nothing
        return PixelBatch(indices, in_shared_memory(torch.from_numpy(pixels)), failures, contents)

    def _render(self, data: bytes, key: str, number: int) -> NDArray[np.uint8]:
        """[R, 3, S, S]."""
        if self._only is None:
            return load_renderings(data, key, self._preprocessing, self._crops)
        return load_crop(data, key, self._preprocessing, self._crops, self._only(number))[None]


def _num_renderings(crops: Crops, only: NumberOfCrop | None) -> int:
    return 1 + crops.count if only is None else 1


def read_item(split: ImageSplit, index: int) -> tuple[bytes, ImageContent]:
    """The encoded image file of an item, and what it is known by. Raises BadImage when it cannot be read."""
    try:
        modified_ns = split.stamp(index).modified_ns  # before it is read: a change meanwhile shows as a later time
        data = split.read_bytes(index)
        return data, ImageContent(len(data), hash_content(data), modified_ns)
    except OSError as error:
        raise BadImage(unreadable(error)) from error
    except MemoryError:
        pass
    raise BadImage("not enough memory to read it")


def decode_batches(
    split: ImageSplit,
    preprocessing: Preprocessing,
    batches: Sequence[Sequence[int]],
    *,
    workers: int,
    pin: bool,
    crops: Crops = NO_CROPS,
    only: NumberOfCrop | None = None,
    largest: int | None = None,
) -> Iterator[PixelBatch]:
    """Yields the batches in order, decoded by `workers` processes (0: by this one). Raises as `compute_ahead` does.

    `only` is the one crop to show, batch by batch, in place of the plain rendering and `crops.count` of them. `largest`
    is the size of the largest batch, where that is known without looking at all of them.
    """
    renderings, size = _num_renderings(crops, only), preprocessing.image_size
    return compute_ahead(
        _PixelBatches(split, preprocessing, crops, only, batches),
        len(batches),
        workers=workers,
        ahead=max(1, _BATCHES_AHEAD // renderings),
        item_bytes=(max(map(len, batches), default=0) if largest is None else largest) * renderings * 3 * size * size,
        pin=pin,
        name=lambda number: f"image {split.keys[batches[number][0]]}",
    )
