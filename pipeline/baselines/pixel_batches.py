"""A split's pixels in batches.

    image file -> the cache's preprocessing, or a crop -> uint8 pixels -> the device -> mirrored where the cache would
    show its mirror image -> floats in [0, 1]

Pixels are ready when a step asks for them: worker processes decode ahead, or a thread gathers from memory. They travel
as bytes, on CUDA from pinned memory, while the device computes, and whatever else is made of them is made there.
"""

# B batch, N samples of a split, S image size

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ci2p_cache.ahead import BATCHES_AHEAD, work_ahead
from ci2p_cache.errors import WorkError
from ci2p_cache.free_memory import resident_limit_bytes
from ci2p_cache.order import BatchOrder
from pipeline.encode.batches import ComputedBatches
from pipeline.encode.crops import Crops
from pipeline.encode.datasets import ImageSplit
from pipeline.encode.decoding import MEND_IT, decode_batches
from pipeline.encode.preprocess import Preprocessing
from pipeline.running.progress import progress
from pipeline.train.data import Batch

_MIRROR_VIEW = 1
_LOADING_BATCH = 64
_ENDLESS = 2**31  # batches


def to_floats(pixels: Tensor, device: torch.device) -> Tensor:
    """uint8 RGB [..., 3, S, S] -> float32 in [0, 1] on the device, the same shape."""
    return pixels.to(device, non_blocking=True).float().div_(255)


@dataclass(eq=False)
class PixelBatches:
    """A split in batches of pixels: from memory, or decoded by worker processes that run ahead.

    In training they run ahead into the next epoch too, while this one is evaluated.
    """

    source: "PixelSource"
    order: BatchOrder
    device: torch.device
    resident: Tensor | None  # uint8 [N, 3, S, S]
    _begun: "tuple[int, Generator[Tensor, None, None]] | None" = None  # an epoch, and what is decoded of it and on

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """As `pixels` says, and raises."""
        for pixels, labels in self.pixels(epoch, first_step):
            floats = to_floats(pixels, self.device).contiguous(memory_format=torch.channels_last)
            yield _Pixels(floats, labels)

    def pixels(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (uint8 RGB [B, 3, S, S], labels int64 [B]) on the device.

        Raises WorkError for an image that cannot be decoded, when they are not in memory yet.
        """
        steps = list(self.order.epoch(epoch, first_step))
        samples = [samples for samples, _ in steps]
        loaded = self._decode(epoch, first_step) if self.resident is None else self._gather(self.resident, samples)
        with closing(loaded):
            for (samples_B, views_B), pixels in zip(steps, loaded, strict=True):
                pixels = pixels.to(self.device, non_blocking=True)
                mirrored = torch.from_numpy(views_B == _MIRROR_VIEW)
                if mirrored.any():  # asked of the host: the device is not waited for
                    mirrored = mirrored.to(self.device, non_blocking=True)
                    pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
                labels = torch.from_numpy(self.source.labels_of(samples_B)).to(self.device, non_blocking=True)
                yield pixels, labels

    def _decode(self, epoch: int, first_step: int) -> Generator[Tensor, None, None]:
        """The batches of an epoch; where it is left, or raises, no process goes on with it."""
        begun, self._begun = self._begun, None
        if begun is None or begun[0] != epoch or first_step:
            begun = None  # ends those processes before others begin
            batches = EpochBatches(
                self.order, self.source.sample_to_item, epoch, first_step, endless=self.order.shuffle
            )
            decoded = self.source.decode(batches, batches.epoch_of, -(-self.order.batch_size // self.order.world_size))
        else:
            decoded = begun[1]
        with ExitStack() as stack:
            stack.enter_context(closing(decoded))
            yield from islice(decoded, self.steps_per_epoch - first_step)
            if self.order.shuffle:
                stack.pop_all()
                self._begun = (epoch + 1, decoded)

    def _gather(self, resident: Tensor, batches: list[NDArray[np.int64]]) -> Generator[Tensor, None, None]:
        largest = max(map(len, batches), default=1) * resident[:1].nbytes
        ahead = max(1, min(BATCHES_AHEAD, int(resident_limit_bytes() // largest)))

        def gather(samples: NDArray[np.int64]) -> Tensor:
            pixels = torch.empty((len(samples), *resident.shape[1:]), dtype=torch.uint8, pin_memory=self.source.pin)
            return torch.index_select(resident, 0, torch.from_numpy(samples), out=pixels)

        return work_ahead(batches, gather, ahead)


@dataclass(frozen=True, eq=False)
class EpochBatches(ComputedBatches):
    """The items of each batch from a step of an epoch on; `endless`: on through the epochs behind it."""

    order: BatchOrder
    sample_to_item: NDArray[np.int64]
    epoch: int
    first_step: int
    endless: bool

    def __len__(self) -> int:
        return _ENDLESS if self.endless else self.order.steps_per_epoch - self.first_step

    def items_of(self, number: int) -> list[int]:
        step = (self.first_step + number) % self.order.steps_per_epoch
        samples, _ = next(self.order.epoch(self.epoch_of(number), step))
        items: list[int] = self.sample_to_item[samples].tolist()
        return items

    def epoch_of(self, number: int) -> int:
        return self.epoch + (self.first_step + number) // self.order.steps_per_epoch


@dataclass(frozen=True)
class _Pixels:
    """A batch of pixels; what the model reads is called latents, whatever it is."""

    latents: Tensor  # float32 [B, 3, S, S] in [0, 1]
    labels: Tensor


@dataclass(frozen=True)
class PixelSource:
    """A split's pixels by sample, in stage one's order."""

    split: ImageSplit
    sample_to_item: NDArray[np.int64]
    preprocessing: Preprocessing
    crops: Crops
    workers: int
    pin: bool

    def labels_of(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """[B] in [0, num_classes)."""
        labels: NDArray[np.int64] = self.split.labels[self.sample_to_item[samples]]
        return labels

    def decode(
        self, items: Sequence[Sequence[int]], epoch_of: Callable[[int], int], largest: int
    ) -> Generator[Tensor, None, None]:
        """Yields uint8 [B, 3, S, S] of each batch of items, of at most `largest`: the plain rendering, or the crop of
        the batch's epoch. Raises WorkError for an image that cannot be decoded.
        """
        decoded = decode_batches(
            self.split,
            self.preprocessing,
            items,
            workers=self.workers,
            pin=self.pin,
            crops=self.crops,
            only=epoch_of if self.crops.count else None,
            largest=largest,
        )
        for batch in decoded:
            if batch.failures:
                raise WorkError(f"image {batch.failures[0].key}: {batch.failures[0].reason}; {MEND_IT}")
            yield batch.pixels[0]

    def load(self, *, quiet: bool) -> Tensor:
        """Every sample, uint8 [N, 3, S, S]."""
        samples = np.arange(len(self.sample_to_item))
        size = self.preprocessing.image_size
        whole = torch.empty((len(samples), 3, size, size), dtype=torch.uint8)
        batches = [samples[start : start + _LOADING_BATCH] for start in range(0, len(samples), _LOADING_BATCH)]
        with progress("decode", len(samples), "images", quiet=quiet) as advance:
            items = [self.sample_to_item[batch].tolist() for batch in batches]
            for batch, pixels in zip(batches, self.decode(items, lambda _: 0, _LOADING_BATCH), strict=True):
                whole[torch.from_numpy(batch)] = pixels
                advance(len(batch))
        return whole
