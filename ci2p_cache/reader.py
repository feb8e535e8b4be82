"""The seam between a cache on disk and whoever wants views of it: one function from sample ids to a batch.

Both formats reduce to the same thing, a file a shard and where each view's buffer lies in it, so that one reader
serves both: it memory-maps the shards, reads each shard's index once, and lets threads decode the buffers straight
into the batch. zarr-python and webdataset are not on this path.
"""

import contextlib
import itertools
import logging
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ci2p_cache import codecs
from ci2p_cache.disk_cache import DiskCache, LocalDisk
from ci2p_cache.errors import WorkError
from ci2p_cache.escapes import Escapes, collect_escapes
from ci2p_cache.items import read_item_list
from ci2p_cache.local_shards import MappedShards, SingleViews, most_mapped, reads_singly
from ci2p_cache.manifest import Manifest, check_marker_in
from ci2p_cache.marker import Marker, hash_escapes, marker_file, parse_marker
from ci2p_cache.order import window_shards
from ci2p_cache.remote import RemoteShards, fetch
from ci2p_cache.seals import FileSeal, check_seal
from ci2p_cache.shard_file import ShardFile, open_shard
from ci2p_cache.spec import CacheSpec

logger = logging.getLogger("ci2p")

_SHARDS_AHEAD = 4  # of a sequential reader
# As torchrun and --gpus set it: which of a machine's processes this is, and how many there are.
_OF_MACHINE = (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))


class ViewReader:
    """Reads views of one split at random. Safe to share among threads.

    Of a local split it maps the shards that it touches, or reads single views where these are too many: see
    `local_shards`.

    Of a remote split it holds two windows of shards as they are stored, whatever the size of the cache: those of
    32,768 images, but at most 2 GiB unless a single shard takes more than 1 GiB. Those that lie on a `disk` are mapped,
    in the system's own memory, which all processes share.
    """

    def __init__(self, split_dir: str, manifest: Manifest, *, workers: int = 1, disk: LocalDisk | None = None):
        """`split_dir` is a local path, or an fsspec URL from which shards are fetched whole, to be kept on a `disk`."""
        self._split_dir = split_dir
        self._manifest = manifest
        self._spec: CacheSpec = manifest.spec
        self.window_shards = window_shards(self._spec.shard_size, int(manifest.shards.column("bytes").max()))
        self._remote = None if self.is_local else RemoteShards(self._load, 2 * self.window_shards)
        self._kept = None if self.is_local or disk is None else DiskCache(disk, manifest.spec_id)
        if self.is_local and disk is not None:
            logger.info("%s is on this machine: nothing of it is kept in --cache-dir", split_dir)
        self._mapped: MappedShards | None = None
        self._single: SingleViews | None = None
        if self.is_local:
            limit = most_mapped()
            if reads_singly(self._spec, len(manifest.shards), limit):
                self._single = SingleViews(split_dir, self._spec, manifest.shards)
            else:
                self._mapped = MappedShards(self._load, limit)
        # Threads that decode rans would take turns, and twice as long: constriction keeps the GIL.
        self._workers = 1 if self._spec.store == "rans" else max(1, workers)
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="ci2p-decode") if self._workers > 1 else None

    @property
    def is_local(self) -> bool:
        return "://" not in self._split_dir

    def read(
        self, positions: NDArray[np.int64], views: NDArray[np.int64], out: NDArray[np.generic] | None = None
    ) -> NDArray[np.generic]:
        """Stored values [B, C, H, W] (zig-zag uint8 or float16) of B views given by position and view, in that order.

        255 stands for one of the `escapes`. `out`, if given, is filled and returned. Raises WorkError when a view is
        missing or damaged.
        """
        if out is None:
            out = np.empty((len(positions), *self._spec.latent_shape), dtype=codecs.stored_dtype(self._spec.store))
        if self._pool is None or len(positions) < 2 * self._workers:
            self._read_rows(positions, views, out)
            return out
        cuts = np.linspace(0, len(positions), self._workers + 1).astype(int)
        parts = [slice(begin, end) for begin, end in itertools.pairwise(cuts)]
        for done in [self._pool.submit(self._read_rows, positions[p], views[p], out[p]) for p in parts]:
            done.result()
        return out

    def read_latents(self, positions: NDArray[np.int64], views: NDArray[np.int64]) -> NDArray[np.float32]:
        """Latents float32 [B, C, H, W] of B views. Raises WorkError when a view is missing or damaged."""
        stored = self.read(positions, views)
        rows = positions * len(self._spec.views) + views
        escaped = None if self.escapes is None else self.escapes.among(rows)
        return codecs.dequantise(stored, self._spec.store, self._spec.step, escaped)

    @cached_property
    def escapes(self) -> Escapes | None:
        """The integers beyond what a stored byte holds; None where there are none, as the manifest knows.

        Raises WorkError when the markers, which list them, are damaged.
        """
        if not self._manifest.num_escapes:
            return None
        listed = []
        for number in np.flatnonzero(self._manifest.shards.column("num_escapes")).tolist():
            escapes = self._marker(number).escapes or []
            if hash_escapes(escapes) != self._manifest.shards[number].escapes_sha256:
                raise WorkError(f"the escapes in the marker of shard {number} have changed; run `ci2p verify`")
            listed.append((number * self._spec.shard_size, escapes))
        return collect_escapes(listed, len(self._spec.views), int(np.prod(self._spec.latent_shape)))

    def read_shards(
        self, *, view: int | None = None, share: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.generic]]]:
        """Yields (positions [n], stored values [n, V, C, H, W]) shard after shard, failures left out.

        With `view` that one alone, V = 1; of a `share` (index, count) every count-th shard from the index-th on.

        The sequential path, and the only one for a remote cache: each shard is fetched once, whole.
        """
        views = np.arange(len(self._spec.views)) if view is None else np.array([view])
        num_views = len(views)
        shards = np.arange(len(self._manifest.shards))[share[0] :: share[1]]
        for number, shard in enumerate(shards.tolist()):
            if self._remote is not None:
                self.prefetch(shards[number : number + _SHARDS_AHEAD])
            positions = shard * self._spec.shard_size + np.flatnonzero(self._manifest.labels.of_shard(shard) >= 0)
            flat = self.read(np.repeat(positions, num_views), np.tile(views, len(positions)))
            yield positions, flat.reshape(len(positions), num_views, *self._spec.latent_shape)
            if self._remote is not None:
                self._remote.drop(shard)

    def prefetch(self, shards: NDArray[np.int64]) -> None:
        """Begins fetching these shards of a remote split in the background, a window after another.

        Of a window each process of a machine that shares a disk begins with others.
        """
        if self._remote is None:
            return
        numbers = shards.tolist()
        if self._kept is not None:
            share, count = (int(os.environ.get(name, default)) for name, default in _OF_MACHINE)
            windows = [
                numbers[begin : begin + self.window_shards] for begin in range(0, len(numbers), self.window_shards)
            ]
            numbers = [
                number
                for window in windows
                for offset in range(share, share + count)
                for number in window[offset % count :: count]
            ]
        self._remote.prefetch(numbers)

    def cancel_prefetch(self) -> None:
        """Gives up what no thread has begun to fetch."""
        if self._remote is not None:
            self._remote.cancel()

    def _read_rows(self, positions: NDArray[np.int64], views: NDArray[np.int64], out: NDArray[np.generic]) -> None:
        for row, (position, view) in enumerate(zip(positions.tolist(), views.tolist(), strict=True)):
            number, place = divmod(position, self._spec.shard_size)
            if self._single is not None:
                buffer = self._single.buffer(number, place, view)
                if buffer is None:
                    raise WorkError(self._damaged(position, view))
                self._single.unpack(buffer, out[row])
                continue
            shard = self._open(number)
            buffer = shard.buffer(place, view)
            if buffer is None and self._remote is not None and self._discard(number):
                self._remote.drop(number)
                shard = self._open(number)
                buffer = shard.buffer(place, view)
            if buffer is None:
                raise WorkError(self._damaged(position, view))
            shard.unpack(buffer, out[row])

    def _damaged(self, position: int, view: int) -> str:
        """Names the image by its key, as far as that can be read."""
        image = f"position {position}"
        if self._spec.format_version > 1:
            with contextlib.suppress(WorkError, IndexError):
                image = f"image {read_item_list(self._split_dir, self._manifest.seals).keys[position]}"
        file = self._manifest.shards.file(position // self._spec.shard_size)
        return (
            f"{self._split_dir}/{file}: view {self._spec.views[view]} of {image} is damaged or missing; "
            "`ci2p verify` lists all that is"
        )

    def _open(self, number: int) -> ShardFile:
        if self._mapped is not None:
            return self._mapped.get(number)
        assert self._remote is not None
        return self._remote.get(number)

    def _load(self, number: int) -> ShardFile:
        try:
            return self._load_once(number)
        except WorkError:
            if self._discard(number):
                return self._load_once(number)
            raise

    def _discard(self, number: int) -> bool:
        """Whether a shard was kept on this machine's disk and is damaged there; it is gone then, and fetched anew."""
        if self._kept is None:
            return False
        seals = {name: seal for name, seal in self._seals(number).items() if self._kept.is_damaged(seal)}
        for seal in seals.values():
            self._kept.discard(seal)
        return bool(seals)

    def _seals(self, number: int) -> dict[str, FileSeal]:
        """Of the shard's file, and of its marker where that has one."""
        record, marker = self._manifest.shards[number], marker_file(number)
        seals = {record.file: FileSeal(record.sha256, record.bytes)}
        if self._manifest.seals is not None and marker in self._manifest.seals:
            seals[marker] = self._manifest.seals[marker]
        return seals

    def _load_once(self, number: int) -> ShardFile:
        record = self._manifest.shards[number]
        data = self._fetch(record.file, number, record.bytes)
        if len(data) != record.bytes:
            raise WorkError(
                f"{self._split_dir}/{record.file} has {len(data)} bytes instead of {record.bytes}; "
                "copy it there again, or run the same `ci2p encode` to restore it"
            )
        return open_shard(data, self._spec, record, partial(self._marker, number))

    def _marker(self, number: int) -> Marker:
        name = marker_file(number)
        data = bytes(self._fetch(name, number))
        check_seal(data, name, self._manifest.seals, self._split_dir)
        marker = parse_marker(data, f"{self._split_dir}/{name}", number)
        check_marker_in(marker, self._manifest, f"{self._split_dir}/{name}")
        return marker

    def _fetch(self, name: str, number: int, num_bytes: int | None = None) -> memoryview:
        """A file of a shard."""
        if not self.is_local:
            url = f"{self._split_dir}/{name}"
            seal = self._seals(number).get(name)
            if self._kept is None or seal is None:
                return fetch(url, num_bytes)
            return self._kept.get(seal, url, partial(fetch, url, num_bytes))
        if num_bytes is None:
            return fetch(f"{self._split_dir}/{name}")
        path = Path(self._split_dir) / name
        try:
            with path.open("rb") as file:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:  # an empty file cannot be mapped
            reason = error.strerror if isinstance(error, OSError) else error
            raise WorkError(f"{path} cannot be read ({reason}); run `ci2p verify`") from error
