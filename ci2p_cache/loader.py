"""Cache + order -> batches on the device. A batch travels as it is stored and becomes floating point there.

Legend: N samples, V views, B batch, C latent channels, H = W latent grid.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ci2p_cache.ahead import BATCHES_AHEAD, work_ahead
from ci2p_cache.cache import Cache
from ci2p_cache.codecs import Escaped
from ci2p_cache.errors import InputError
from ci2p_cache.neighbours import Neighbours
from ci2p_cache.order import BatchOrder, Shards, Windows, window_shards
from ci2p_cache.printable import counted
from ci2p_cache.reader import ViewReader
from ci2p_cache.resident import Resident as Resident
from ci2p_cache.resident import hold
from ci2p_cache.spec import CacheSpec

logger = logging.getLogger("ci2p")

PLAIN_VIEW = 0


@dataclass(frozen=True)
class Batch:
    """B samples, one view each, on the device."""

    latents: Tensor  # [B, C, H, W] float32
    labels: Tensor  # [B] int64
    positions: NDArray[np.int64]  # [B] which they are


class BatchLoader:
    """Batches of one split, in an order that is a function of (seed, epoch, step) alone.

    Training (`shuffle=True`): full global batches of `batch_size` samples, every rank the same number of steps, each
    sample showing the view that `order.view_choice` gives it. Evaluation (`shuffle=False`): every sample once over
    all ranks, its plain view (or `view`), the last batch short; a rank may run out earlier than another.

    A remote cache that is not resident is streamed: the shards of a window are read while those of the next are
    fetched, and no others are held (see `ViewReader` for how much that is). Every rank, or with a `cache.disk` every
    machine, fetches every shard, once an epoch unless two windows are the whole split. Training goes through the
    windows in the order of `order.Windows`.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        shuffle: bool = True,
        workers: int = 1,
        resident: Resident = "auto",
        view: int | None = None,
        neighbours: Neighbours | None = None,
    ):
        """`batch_size` is global; `workers` are decoding threads; `view` pins one view of every sample. In memory
        `neighbours` hold the split once; each of them makes this loader.

        Raises InputError when the batch does not divide by the ranks, or the cache cannot be resident as asked.
        """
        if batch_size < 1 or batch_size % world_size:
            raise InputError(f"--batch-size {batch_size} does not divide by {world_size} processes; change either")
        self.cache = cache
        self.device = torch.device(device)
        self._reader = ViewReader(cache.split_dir, cache.manifest, workers=workers, disk=cache.disk)
        # The order must not hang on how much memory is free, which differs between ranks and between a run and its
        # resumption: "auto" reads a remote cache window by window even where all of it fits.
        shards = None
        if _is_streamed(cache, resident):
            counts = cache.manifest.shards.column("num_samples")
            shards = Shards(np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]), self._reader.window_shards)
        self._order = BatchOrder(
            num_samples=cache.num_samples,
            num_views=len(cache.spec.views),
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            shuffle=shuffle,
            view=PLAIN_VIEW if view is None and not shuffle else view,
            shards=shards,
        )
        self._escapes = self._reader.escapes
        self._resident = hold(cache, self._reader, resident, self.device, view=self._order.view, neighbours=neighbours)
        self._say_if_streamed()

    @property
    def steps_per_epoch(self) -> int:
        """The same on every rank when training; this rank's own count at evaluation."""
        return self._order.steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yields the batches of an epoch from `first_step` on, reading ahead in a thread."""
        windows = self._order.windows(epoch) if self._resident is None else None

        def load(step: tuple[NDArray[np.int64], NDArray[np.int64]]) -> _Stored:
            return self._stored(*step, windows)

        steps = self._order.epoch(epoch, first_step)
        loaded = work_ahead(steps, load, BATCHES_AHEAD, at_end=self._reader.cancel_prefetch)
        with closing(loaded):
            for stored in loaded:
                yield self._batch(stored)

    def keys_of(self, batch: Batch) -> list[str]:
        """The key of each of the samples of one of its batches. Raises WorkError when the item list is damaged."""
        keys = self.cache.read_keys()
        return [keys[sample] for sample in self.cache.samples_at(batch.positions).tolist()]

    def _stored(self, samples: NDArray[np.int64], views: NDArray[np.int64], windows: Windows | None) -> "_Stored":
        if windows is not None:
            self._reader.prefetch(windows.ahead(samples))
        positions = self.cache.positions_of(samples)
        if self._resident is not None:
            batch = self._resident.read(positions, views)
        else:
            batch = torch.from_numpy(self._reader.read(positions, views))
        if self.device.type == "cuda" and not batch.is_cuda:
            batch = batch.pin_memory()
        rows = positions * len(self.cache.spec.views) + views
        escaped = None if self._escapes is None else self._escapes.among(rows)
        return _Stored(batch, escaped, self.cache.labels_of(samples), positions)

    def _batch(self, stored: "_Stored") -> Batch:
        values = stored.values.to(self.device, non_blocking=True)
        labels = torch.from_numpy(stored.labels).to(self.device, non_blocking=True)
        return Batch(to_latents(values, self.cache.spec, stored.escaped), labels, stored.positions)

    def _say_if_streamed(self) -> None:
        if self._resident is None and not self._reader.is_local:
            window = counted(self._reader.window_shards, "shard")
            hint = ""
            if self.cache.disk is None and os.environ.get("LOCAL_WORLD_SIZE", "1") != "1":
                hint = "; each process fetches all of it, or each machine with --cache-dir"
            logger.info("%s is streamed, %s a window%s", self.cache.split_dir, window, hint)


@dataclass(frozen=True)
class _Stored:
    """A batch as it is stored, on the host or, of a split that is held there, on the device."""

    values: Tensor  # [B, C, H, W]
    escaped: Escaped | None  # what those of them stand for that are escapes
    labels: NDArray[np.int64]  # [B]
    positions: NDArray[np.int64]  # [B]


def order_window(cache: Cache, resident: Resident) -> int:
    """How many shards the order of a training epoch goes through at a time; 0 where that makes no difference."""
    if not _is_streamed(cache, resident):
        return 0
    shards = cache.manifest.shards
    size = window_shards(cache.spec.shard_size, int(shards.column("bytes").max()))
    return size if size < len(shards) else 0


def _is_streamed(cache: Cache, resident: Resident) -> bool:
    return "://" in str(cache.split_dir) and resident in ("auto", "off")


def to_latents(stored: Tensor, spec: CacheSpec, escaped: Escaped | None = None) -> Tensor:
    """Stored values [B, C, H, W] (zig-zag uint8 or float16) -> latents float32 on the same device.

    `escaped` says what the values 255 among them stand for, as `Escapes.among` does; None where there are none.
    """
    if spec.store == "float16":
        return stored.float()
    assert spec.step is not None
    # In one byte a value until the last moment: what costs here is memory traffic.
    integers = ((stored >> 1) ^ -(stored & 1)).view(torch.int8)
    latents = integers.float()
    if escaped is not None:
        where, beyond = (torch.from_numpy(part).to(stored.device) for part in escaped)
        latents.view(-1)[where] = beyond.float()
    return latents.mul_(spec.step)
