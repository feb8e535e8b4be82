"""Training data: what the loop asks of a data set, and the answer of a cache."""

# B batch, C latent channels (192), H=W latent grid (16)

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ci2p_cache.cache import Cache, open_cache
from ci2p_cache.disk_cache import LocalDisk
from ci2p_cache.errors import InputError
from ci2p_cache.known_images import KnownImages, known_images
from ci2p_cache.loader import PLAIN_VIEW, BatchLoader, Resident, order_window
from ci2p_cache.spec import refuse_mixture
from pipeline.running.neighbours import neighbours


class Batch(Protocol):
    """B samples on the device."""

    @property
    def latents(self) -> Tensor:
        """float32 [B,C,H,W]."""

    @property
    def labels(self) -> Tensor:
        """int64 [B] in [0, num_classes)."""


class Batches(Protocol):
    """A split in batches; its epochs are pure functions of their number."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch; the same on every rank when training."""

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `first_step` on."""


@dataclass(frozen=True)
class Share:
    """What part of the work is this process's, and where it is done."""

    rank: int
    world_size: int
    device: torch.device


class TrainingData(Protocol):
    """A training and a validation split. Anything that looks like this can be trained on, pixels too."""

    @property
    def path(self) -> str:
        """Where it lies, to find it again."""

    @property
    def fingerprint(self) -> str:
        """Equal for equal data in the same order: what a resumed run is compared by, part by part (see `is_same`)."""

    @property
    def window_shards(self) -> int:
        """How many shards an epoch's order goes through at a time; 0 where any sample may follow any."""

    @property
    def spec(self) -> dict[str, Any]:
        """Everything needed to treat a new image alike, as JSON types."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the labels."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """[C,H,W] of one sample."""

    @property
    def num_train(self) -> int:
        """Training samples in an epoch."""

    def known_images(self) -> KnownImages:
        """Which images these are, for whoever measures the model later."""

    def train_batches(self, share: Share, *, batch_size: int, seed: int, flip: bool) -> Batches:
        """Shuffled full batches of `batch_size` samples over all ranks."""

    def val_batches(self, share: Share, *, batch_size: int) -> Batches:
        """Every validation sample once over all ranks; ranks may differ in their number of batches."""


def is_same(fingerprint: str, other: str) -> bool:
    """Whether two fingerprints are of the same data; the hashes of contents, last, are missing of an older cache."""
    return all(ours == theirs for ours, theirs in zip(fingerprint.split("-"), other.split("-"), strict=False))


@dataclass(frozen=True)
class CacheData:
    """The splits `train` and `val` of a cache."""

    path: str
    train: Cache
    val: Cache
    workers: int = 1
    resident: Resident = "auto"

    @property
    def fingerprint(self) -> str:
        parts = [self.train.spec.values_id, self.val.spec.values_id]
        # An image that was replaced under its name leaves the spec as it is.
        parts += [
            split.manifest.contents_sha256[:16] for split in (self.train, self.val) if split.manifest.contents_sha256
        ]
        return "-".join(parts)

    @property
    def window_shards(self) -> int:
        return order_window(self.train, self.resident)

    @property
    def spec(self) -> dict[str, Any]:
        return self.train.spec.model_dump(mode="json")

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.train.classes)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.train.spec.latent_shape

    @property
    def num_train(self) -> int:
        return self.train.num_samples

    def known_images(self) -> KnownImages:
        return known_images(self.train, self.val)

    def train_batches(self, share: Share, *, batch_size: int, seed: int, flip: bool) -> Batches:
        return self._loader(
            self.train, share, batch_size=batch_size, seed=seed, shuffle=True, view=None if flip else PLAIN_VIEW
        )

    def val_batches(self, share: Share, *, batch_size: int) -> Batches:
        return self._loader(self.val, share, batch_size=batch_size, seed=0, shuffle=False, view=PLAIN_VIEW)

    def _loader(
        self, cache: Cache, share: Share, *, batch_size: int, seed: int, shuffle: bool, view: int | None
    ) -> BatchLoader:
        with neighbours(share.world_size) as together:
            return BatchLoader(
                cache,
                batch_size=batch_size,
                seed=seed,
                rank=share.rank,
                world_size=share.world_size,
                device=share.device,
                shuffle=shuffle,
                workers=self.workers,
                resident=self.resident,
                view=view,
                neighbours=together,
            )


def open_training_data(
    path: str | Path, *, workers: int = 1, resident: Resident = "auto", disk: LocalDisk | None = None
) -> CacheData:
    """Opens both splits of a cache, to be kept on a `disk` where it is remote.

    Raises InputError when a split is missing or unfinished, or the two do not hold the same classes and kind of
    latents; WorkError when a shard is missing or truncated.
    """
    train, val = (open_cache(path, split, disk) for split in ("train", "val"))
    refuse_mixture(train.spec, val.spec)
    if train.classes != val.classes:
        odd = sorted(set(train.classes) ^ set(val.classes)) or ["their order"]
        raise InputError(
            f"train and val of {path} name different classes ({odd[0]}); encode both from the same folders"
        )
    return CacheData(str(path).rstrip("/"), train, val, workers, resident)
