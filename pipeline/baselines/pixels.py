"""Images as training data: what a cache gives as latents, this gives as pixels, image for image.

Samples come in the order in which stage one plans them, so that with one seed a baseline sees, batch for batch, the
pictures that a CI2P-ViT sees the latents of.
"""

import hashlib
import logging
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.free_memory import resident_limit_bytes
from ci2p_cache.known_images import HeldOut, KnownImages, as_ids, name_id
from ci2p_cache.loader import PLAIN_VIEW
from ci2p_cache.marker import Failure
from ci2p_cache.order import BatchOrder
from ci2p_cache.packed_strings import PackedStrings
from ci2p_cache.plan import plan_order
from ci2p_cache.resident import too_large
from ci2p_cache.spec import hash_items
from ci2p_cache.views import view_names
from pipeline.baselines.pixel_batches import PixelBatches, PixelSource
from pipeline.baselines.pixel_spec import PixelSpec, ShownCrops, fresh_crops
from pipeline.baselines.sound_images import without_failures
from pipeline.encode.augmentation import Augment
from pipeline.encode.crops import NO_CROPS, Crops
from pipeline.encode.datasets import ImageSplit, open_dataset
from pipeline.encode.datasets.description import describe_dataset, refuse_left_out_pictures
from pipeline.encode.datasets.table_columns import NO_COLUMNS, TableColumns
from pipeline.encode.decoding import OnError
from pipeline.encode.preprocess import ResizeMode, preprocessing
from pipeline.running.pixel_limit import MAX_PIXELS
from pipeline.train.data import Share

logger = logging.getLogger("ci2p")

Resident = Literal["auto", "cpu", "off"]
VIEWS = view_names("flip", 0)


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

    def train_batches(self, share: Share, *, batch_size: int, seed: int, flip: bool) -> PixelBatches:
        order = self._order(self.train, share, batch_size, seed, shuffle=True, view=None if flip else PLAIN_VIEW)
        return self._batches(self.train, share, order, self.pixel_spec.crops_of_run(seed))

    def val_batches(self, share: Share, *, batch_size: int) -> PixelBatches:
        order = self._order(self.val, share, batch_size, 0, shuffle=False, view=PLAIN_VIEW)
        return self._batches(self.val, share, order, NO_CROPS)

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

    def _batches(self, split: ImageSplit, share: Share, order: BatchOrder, crops: Crops) -> PixelBatches:
        source = PixelSource(
            split,
            plan_order(split.keys, self.pixel_spec.data_seed),
            replace(self.pixel_spec.preprocessing, max_pixels=self.max_pixels),
            crops,
            self.workers,
            pin=share.device.type == "cuda",
        )
        is_resident = not crops.count and self._is_resident(split)
        resident = source.load(quiet=share.rank > 0) if is_resident else None
        return PixelBatches(source, order, share.device, resident)

    def _is_resident(self, split: ImageSplit) -> bool:
        if self.resident == "off":
            return False
        need = len(split.keys) * int(np.prod(self.input_shape))
        allowed = resident_limit_bytes()
        if self.resident == "cpu" and need > allowed:
            raise too_large(need, allowed, " a process")
        return need <= allowed


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
    crops: ShownCrops = "none",
    crop_scale: tuple[float, float] | None = None,
    augment: Augment = "none",
    data_seed: int = 0,
    resident: Resident = "auto",
    on_error: OnError = "stop",
    max_pixels: int = MAX_PIXELS,
) -> PixelData:
    """Opens train and val of a data set; `data_seed` is stage one's --seed: of the order and of what is held out.

    `crops` "fresh" shows, in place of each training image, a random-resized crop of it, another every epoch, drawn by
    (the run's seed, epoch, key) alone. Images are decoded when batches are asked for, or under `on_error` "skip" once
    before, to leave out those that cannot be. Raises InputError as `open_dataset`, `preprocessing` and `fresh_crops`.
    """
    shown = fresh_crops(crops, crop_scale, augment, resident)
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
        **shown,
    )
    return PixelData(spec, splits["train"], splits["val"], workers, resident, failures, max_pixels)
