"""A shard's file, open: where each view's buffer lies in it, and whether it is as it was written.

Both formats come to the same. Since format version 2 every buffer is held against its checksum when it is asked for, a
rans shard's tables and the file's id when it is opened (promise C6).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from ci2p_cache import codecs, tar_store, zarr_store
from ci2p_cache.blosc_buffer import buffer_bytes
from ci2p_cache.checksums import CHECKSUM_BYTES, ID_BYTES, RESIDUE, crc32c, is_whole
from ci2p_cache.errors import WorkError
from ci2p_cache.marker import NO_LABEL, Marker, ShardRecord, hash_bytes
from ci2p_cache.rans import ShardCoder
from ci2p_cache.remote_path import AnyPath
from ci2p_cache.spec import CacheSpec

Unpack = Callable[[memoryview, NDArray[np.generic]], None]


@dataclass(frozen=True)
class ShardFile:
    """Its bytes, where each view lies in them, and what decodes one into an array."""

    data: memoryview
    offsets: NDArray[np.int64]  # [n, V]
    sizes: NDArray[np.int64]  # [n, V], with what lies behind the buffer; -1 where there is no view
    unpack: Unpack
    behind: int = 0  # bytes behind each buffer: its checksum, in a zarr
    checksums: NDArray[np.int64] | None = None  # [n, V], of a tar
    # [n * V] whether a view was sound before. Of float16 alone, which is copied in little more time than its checksum
    # takes: it is checked once, not in every epoch. Integers are decompressed, and there a checksum costs 2 %.
    checked: bytearray | None = None

    @cached_property
    def array(self) -> NDArray[np.uint8]:
        """The data, uint8 [n]."""
        return np.frombuffer(self.data, np.uint8)

    def buffer(self, place: int, view: int) -> memoryview | None:
        """What a view is decoded from; None when it is damaged, or is not there."""
        at = place * self.offsets.shape[1] + view
        begin = self.offsets.item(at)
        end = begin + self.sizes.item(at)
        if not 0 <= begin <= end <= len(self.data):
            return None
        if self.checked is None or not self.checked[at]:
            if self.behind:
                if crc32c(self.array[begin:end]) != RESIDUE:
                    return None
            elif self.checksums is not None and crc32c(self.array[begin:end]) != self.checksums.item(at):
                return None
            if self.checked is not None:
                self.checked[at] = True
        return self.data[begin : end - self.behind]


def open_shard(data: memoryview, spec: CacheSpec, record: ShardRecord, read_marker: Callable[[], Marker]) -> ShardFile:
    """Raises WorkError when the file is damaged where it says what lies where, or is that of another shard."""
    is_checked = spec.format_version > 1
    id_begin = zarr_store.ID_BEGIN if spec.format == "zarr" else tar_store.ID_BEGIN
    if is_checked and data[id_begin : id_begin + ID_BYTES].hex() != record.id:
        raise WorkError(f"{record.file} is damaged, or the file of another shard; run `ci2p verify`")
    behind, checksums = 0, None
    if spec.format == "zarr":
        offsets, sizes = zarr_store.view_index(data, spec)
        tables = data[zarr_store.tables_begin(spec) :]
        behind = CHECKSUM_BYTES if is_checked else 0
    else:
        marker = read_marker()
        offsets, sizes = tar_store.view_index(marker, spec)
        tables = data[tar_store.tables_begin(spec) :]
        checksums = tar_store.view_checksums(marker, spec) if is_checked else None
    unpack: Unpack = partial(codecs.unpack, store=spec.store)
    if spec.store == "rans":
        if is_checked and not is_whole(tables[: buffer_bytes(tables) + CHECKSUM_BYTES]):
            raise WorkError(f"the tables of {record.file} are damaged; run `ci2p verify`")
        unpack = ShardCoder.from_tables(tables, spec.latent_shape[0]).unpack
    checked = bytearray(offsets.size) if spec.store == "float16" else None
    return ShardFile(data, offsets, sizes, unpack, behind, checksums, checked)


def read_rows(split_dir: AnyPath, spec: CacheSpec, marker: Marker) -> list[list[bytes] | None]:
    """The views' buffers of every position of one local shard, as `codecs.pack` gave them; None where there are none.

    Raises WorkError unless the file is, byte for byte, what its marker says: what is made of it would pass for sound.
    """
    path = split_dir / marker.record.file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WorkError(f"{path} cannot be read ({error.strerror}); run `ci2p verify`") from error
    if len(data) != marker.record.bytes or hash_bytes(data) != marker.record.sha256:
        raise WorkError(f"{path} has changed since it was written; run `ci2p verify`")
    shard = open_shard(memoryview(data), spec, marker.record, lambda: marker)
    rows: list[list[bytes] | None] = []
    for place, label in enumerate(marker.labels):
        if label == NO_LABEL:
            rows.append(None)
            continue
        buffers = []
        for view, name in enumerate(spec.views):
            buffer = shard.buffer(place, view)
            if buffer is None:
                raise WorkError(f"{path}: view {name} of image {marker.keys[place]} is damaged; run `ci2p verify`")
            buffers.append(_repack(shard, buffer, spec) if spec.store == "rans" else bytes(buffer))
        rows.append(buffers)
    return rows


def _repack(shard: ShardFile, buffer: memoryview, spec: CacheSpec) -> bytes:
    stored = np.empty(spec.latent_shape, dtype=codecs.stored_dtype(spec.store))
    shard.unpack(buffer, stored)
    return codecs.pack(stored, "int")
