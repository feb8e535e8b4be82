"""Images as training data: what a cache gives as latents, this gives as pixels, image for image.

    image file -> the cache's preprocessing -> uint8 pixels -> the device -> mirrored where the cache would show its
    mirror image -> floats in [0, 1]

Samples come in the order in which stage one plans them, so that with one seed a baseline sees, batch for batch, the
pictures that a CI2P-ViT sees the latents of.
"""

# B batch, N samples of a split, S image size

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.known_images import HeldOut, KnownImages, as_ids, name_id
from ci2p_cache.loader import PLAIN_VIEW, resident_limit_bytes
from ci2p_cache.marker import Failure
from ci2p_cache.order import BatchOrder
from ci2p_cache.packed_strings import PackedStrings
from ci2p_cache.plan import plan_order
from ci2p_cache.spec import hash_items
from ci2p_cache.views import view_names
from pipeline.baselines.pixel_spec import PixelSpec
from pipeline.baselines.sound_images import without_failures
from pipeline.encode.datasets import ImageSplit, open_dataset
from pipeline.encode.datasets.description import describe_dataset, refuse_left_out_pictures
from pipeline.encode.datasets.table_columns import NO_COLUMNS, TableColumns
from pipeline.encode.decoding import MEND_IT, OnError, decode_batches
from pipeline.encode.preprocess import Preprocessing, ResizeMode, preprocessing
from pipeline.running.pixel_limit import MAX_PIXELS
from pipeline.running.progress import progress
from pipeline.train.data import Batch, Share

logger = logging.getLogger("ci2p")

Resident = Literal["auto", "cpu", "off"]
VIEWS = view_names("flip", 0)
_MIRROR_VIEW = 1
_LOADING_BATCH = 64


def to_floats(pixels: Tensor, device: torch.device) -> Tensor:
    """uint8 RGB [..., 3, S, S] -> float32 in [0, 1] on the device, the same shape."""
    return pixels.to(device, non_blocking=True).float().div_(255)


@dataclass(frozen=True)
class PixelData:
    """The splits `train` and `val` of a data set of images, as `pipeline.train.data.TrainingData` wants them."""

    pixel_spec: PixelSpec
    train: ImageSplit
    val: ImageSplit
    workers: int
    resident: Resident = "auto"
    failures: tuple[Failure, ...] = ()  # images that were left out because they cannot be decoded
    max_pixels: int = MAX_PIXELS  # of an image

    @property
    def path(self) -> str:
        return self.pixel_spec.data_dir or self.pixel_spec.dataset

    @property
    def fingerprint(self) -> str:
        """Equal for equal images, preprocessing and order, wherever they lie."""
        spec = self.pixel_spec.model_copy(update={"data_dir": None}).model_dump_json()
        items = [hash_items(split.keys, split.labels, split.classes) for split in (self.train, self.val)]
        return hashlib.sha256("\n".join([spec, *items]).encode()).hexdigest()[:16]

    @property
    def window_shards(self) -> int:
        return 0

    @property
    def spec(self) -> dict[str, Any]:
        return self.pixel_spec.model_dump(mode="json")

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (3, self.pixel_spec.image_size, self.pixel_spec.image_size)

    @property
    def num_train(self) -> int:
        return len(self.train.keys)

    def known_images(self) -> KnownImages:
        """By key and size: their contents are read later."""
        return KnownImages(
            "name and size", np.sort(_ids(self.train)), HeldOut(PackedStrings(self.val.keys), _ids(self.val))
        )

    def train_batches(self, share: Share, *, batch_size: int, seed: int, flip: bool) -> "PixelBatches":
        order = self._order(self.train, share, batch_size, seed, shuffle=True, view=None if flip else PLAIN_VIEW)
        return self._batches(self.train, share, order)

    def val_batches(self, share: Share, *, batch_size: int) -> "PixelBatches":
        return self._batches(
            self.val, share, self._order(self.val, share, batch_size, 0, shuffle=False, view=PLAIN_VIEW)
        )

    def _order(
        self, split: ImageSplit, share: Share, batch_size: int, seed: int, *, shuffle: bool, view: int | None
    ) -> BatchOrder:
        return BatchOrder(
            num_samples=len(split.keys),
            num_views=len(VIEWS),
            batch_size=batch_size,
            seed=seed,
            rank=share.rank,
            world_size=share.world_size,
            shuffle=shuffle,
            view=view,
        )

    def _batches(self, split: ImageSplit, share: Share, order: BatchOrder) -> "PixelBatches":
        source = _PixelSource(
            split,
            plan_order(split.keys, self.pixel_spec.data_seed),
            replace(self.pixel_spec.preprocessing, max_pixels=self.max_pixels),
            self.workers,
            pin=share.device.type == "cuda",
        )
        resident = source.load(quiet=share.rank > 0) if self._is_resident(split) else None
        return PixelBatches(source, order, share.device, resident)

    def _is_resident(self, split: ImageSplit) -> bool:
        if self.resident == "off":
            return False
        need = len(split.keys) * int(np.prod(self.input_shape))
        allowed = resident_limit_bytes()
        if self.resident == "cpu" and need > allowed:
            raise InputError(
                f"--resident cpu needs {need / 2**30:.1f} GiB a process, and half of the free memory is "
                f"{allowed / 2**30:.1f} GiB; use --resident off"
            )
        return need <= allowed


@dataclass(frozen=True)
class PixelBatches:
    """A split in batches of pixels: from memory, or decoded by worker processes that run ahead."""

    source: "_PixelSource"
    order: BatchOrder
    device: torch.device
    resident: Tensor | None  # uint8 [N, 3, S, S]

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Raises WorkError for an image that cannot be decoded, when they are not in memory yet."""
        steps = list(self.order.epoch(epoch, first_step))
        if self.resident is None:
            batches = self.source.decode([samples for samples, _ in steps])
        else:
            batches = (self.resident[torch.from_numpy(samples)] for samples, _ in steps)
        for (samples, views), pixels in zip(steps, batches, strict=True):
            mirrored = torch.from_numpy(views == _MIRROR_VIEW)
            pixels[mirrored] = pixels[mirrored].flip(-1)  # a batch is a copy of its own
            floats = to_floats(pixels, self.device).contiguous(memory_format=torch.channels_last)
            labels = torch.from_numpy(self.source.labels_of(samples)).to(self.device, non_blocking=True)
            yield _Pixels(floats, labels)


@dataclass(frozen=True)
class _Pixels:
    """A batch of pixels; what the model reads is called latents, whatever it is."""

    latents: Tensor  # float32 [B, 3, S, S] in [0, 1]
    labels: Tensor


@dataclass(frozen=True)
class _PixelSource:
    """A split's pixels by sample, in stage one's order."""

    split: ImageSplit
    sample_to_item: NDArray[np.int64]
    preprocessing: Preprocessing
    workers: int
    pin: bool

    def labels_of(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """[B] in [0, num_classes)."""
        labels: NDArray[np.int64] = self.split.labels[self.sample_to_item[samples]]
        return labels

    def decode(self, batches: list[NDArray[np.int64]]) -> Iterator[Tensor]:
        """Yields uint8 [B, 3, S, S] of each batch of samples. Raises WorkError for an image that cannot be decoded."""
        items = [self.sample_to_item[samples].tolist() for samples in batches]
        for batch in decode_batches(self.split, self.preprocessing, items, workers=self.workers, pin=self.pin):
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
            for batch, pixels in zip(batches, self.decode(batches), strict=True):
                whole[torch.from_numpy(batch)] = pixels
                advance(len(batch))
        return whole


def _ids(split: ImageSplit) -> NDArray[np.uint64]:
    return as_ids(name_id(key, split.stamp(item).num_bytes) for item, key in enumerate(split.keys))


def open_pixel_data(
    dataset: str,
    data_dir: str | None,
    *,
    workers: int,
    val_fraction: float | None = None,
    columns: TableColumns = NO_COLUMNS,
    image_size: int = 256,
    short_edge: int | None = None,
    resize_mode: ResizeMode = "crop",
    data_seed: int = 0,
    resident: Resident = "auto",
    on_error: OnError = "stop",
    max_pixels: int = MAX_PIXELS,
) -> PixelData:
    """Opens train and val of a data set; `data_seed` is stage one's --seed: of the order and of what is held out.

    Images are decoded when batches are asked for, or under `on_error` "skip" once before, to leave out those that
    cannot be. Raises InputError as `open_dataset` and `preprocessing` do.
    """
    pre = preprocessing(image_size, short_edge, resize_mode, max_pixels=max_pixels)
    opened = open_dataset(
        dataset, data_dir, splits=("train", "val"), val_fraction=val_fraction, seed=data_seed, columns=columns
    )
    for line in describe_dataset(opened):
        logger.info("%s", line)
    splits: dict[str, ImageSplit] = dict(opened)
    failures: tuple[Failure, ...] = ()
    if on_error == "stop":
        refuse_left_out_pictures(opened)
    else:
        splits, failures = without_failures(splits, pre, workers)
    spec = PixelSpec(
        dataset=dataset,
        data_dir=data_dir,
        columns=opened.columns,
        val_fraction=val_fraction,
        data_seed=data_seed,
        image_size=pre.image_size,
        short_edge=pre.short_edge,
        resize_mode=pre.resize_mode,
    )
    return PixelData(spec, splits["train"], splits["val"], workers, resident, failures, max_pixels)
