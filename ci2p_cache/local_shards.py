"""Shards on a disk of this machine: mapped, as many as a process may have open; beyond that a view is read by itself.

A mapping takes one of the process's open files, and finding out where its views lie takes as long as decoding one. With
a hundred thousand shards and views at random hardly any mapping would be used twice.
"""

import contextlib
import os
import struct
import threading
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from ci2p_cache import codecs
from ci2p_cache.bounds import SHARD_FILES
from ci2p_cache.checksums import CHECKSUM_BYTES, ID_BYTES, RESIDUE, crc32c
from ci2p_cache.errors import WorkError
from ci2p_cache.shard_file import ShardFile
from ci2p_cache.shard_table import ShardTable
from ci2p_cache.spec import CacheSpec

_SHARE = 4  # one in so many of the files that a process may have open
_MOST = 1 << 14  # and of the mappings that Linux gives one
_ENTRY = struct.Struct("<QQ")  # of a zarr shard's index: offset and size
_FOLDER, _, _NAME = SHARD_FILES["zarr"].partition("{}")


def most_mapped() -> int:
    """How many shards a process maps at a time."""
    try:
        import resource
    except ImportError:  # Windows
        return 1 << 9
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # it is low for programs that wait by select(), which knows 1,024 files; this one does not
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else max(1, min(_MOST, soft // _SHARE))


class MappedShards:
    """At most `limit` shards, loaded when asked for; the one loaded first makes way. Safe to share among threads."""

    def __init__(self, load: Callable[[int], ShardFile], limit: int):
        self._load = load
        self._limit = limit
        self._shards: dict[int, ShardFile] = {}
        self._lock = threading.Lock()

    def get(self, number: int) -> ShardFile:
        """Raises what loading it does."""
        shard = self._shards.get(number)
        if shard is None:
            with self._lock:
                shard = self._shards.get(number)
                if shard is None:
                    shard = self._load(number)
                    if len(self._shards) >= self._limit:
                        del self._shards[next(iter(self._shards))]
                    self._shards[number] = shard
        return shard


class SingleViews:
    """Views of a zarr split, each by reads of its own: of its shard's index, then of its buffer. Safe among threads.

    An index is not held against its checksum, which is as much as a view is: what a damaged entry leads to is no buffer
    whose own checksum holds. Not of a rans store, whose shards have tables, nor of format version 1.
    """

    def __init__(self, split_dir: str, spec: CacheSpec, table: ShardTable):
        self._table = table
        self._num_views = len(spec.views)
        self._sizes: list[int] = table.column("bytes").tolist()
        self._index_bytes = spec.shard_size * self._num_views * _ENTRY.size + CHECKSUM_BYTES
        self._ids = table.column("id")
        self._is_known = bytearray(len(table))  # whether a shard's file has said that it is the shard's
        folder = Path(split_dir) / _FOLDER
        try:
            self._folder = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise WorkError(f"{folder} cannot be read ({error.strerror}); run `ci2p verify`") from error
        weakref.finalize(self, os.close, self._folder)
        self._where = folder
        self.unpack = partial(codecs.unpack, store=spec.store)

    def buffer(self, number: int, place: int, view: int) -> memoryview | None:
        """What a view is decoded from; None when it is damaged, or is not there. Raises WorkError for its shard."""
        try:
            file = os.open(f"{number}{_NAME}", os.O_RDONLY, dir_fd=self._folder)
        except OSError as error:
            raise self._cannot_read(number, error) from error
        try:
            size = self._sizes[number]
            if not self._is_known[number]:
                if os.pread(file, ID_BYTES, 0) != self._ids[number].tobytes():
                    name = self._table.file(number)
                    raise WorkError(f"{name} is damaged, or the file of another shard; run `ci2p verify`")
                self._is_known[number] = True
            at = size - self._index_bytes + _ENTRY.size * (place * self._num_views + view)
            begin, length = _ENTRY.unpack(os.pread(file, _ENTRY.size, at))
            if begin + length > size:
                return None
            data = os.pread(file, length, begin)
        except OSError as error:
            raise self._cannot_read(number, error) from error
        except struct.error:  # the file is shorter than it was
            return None
        finally:
            os.close(file)
        return memoryview(data)[:-CHECKSUM_BYTES] if crc32c(np.frombuffer(data, np.uint8)) == RESIDUE else None

    def _cannot_read(self, number: int, error: OSError) -> WorkError:
        return WorkError(f"{self._where}/{number}{_NAME} cannot be read ({error.strerror}); run `ci2p verify`")


def reads_singly(spec: CacheSpec, num_shards: int, limit: int) -> bool:
    """Whether views of a split of so many shards are better read one by one."""
    is_simple = spec.format == "zarr" and spec.store != "rans" and spec.format_version > 1
    return is_simple and num_shards > limit and hasattr(os, "pread") and os.open in os.supports_dir_fd
