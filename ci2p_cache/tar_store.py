"""The webdataset format: one tar a shard, `record_images` images a record. The only import of webdataset.

    000000.tar
        __ci2p.id__               the shard's id; webdataset skips such names
        __ci2p__/tables.rans      of a rans store alone, their CRC-32C behind them
        000000-0000.json          of the record's images {"keys": [...], "labels": [...], "crc32c": [[...], ...]}
        000000-0000.latents       the buffers of their views, one after another

Plain webdataset streams the records, and `images_of_records` makes images of them; where each view lies in a local tar
is kept in the shard's marker, which makes it random-access for us.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import webdataset
from numpy.typing import NDArray

from ci2p_cache.blosc_buffer import buffer_bytes
from ci2p_cache.bounds import SHARD_FILES
from ci2p_cache.checksums import PackedShard, checksum, with_checksum
from ci2p_cache.codecs import stored_dtype, unpack
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.marker import Marker
from ci2p_cache.spec import CacheSpec

ID_BEGIN = tarfile.BLOCKSIZE  # behind the header of the first member
_ID_KEY, _ID_EXTENSION = "__ci2p", "id__"
_TABLES_KEY, _TABLES_EXTENSION = "__ci2p__/tables", "rans"
_LATENTS, _IMAGES = "latents", "json"


def shard_file(shard: int) -> str:
    """Where a shard lies, relative to the split's folder."""
    return SHARD_FILES["webdataset"].format(shard)


def tables_begin(spec: CacheSpec) -> int:
    """Where the tables of a rans shard are in its tar."""
    return ID_BEGIN if spec.format_version == 1 else ID_BEGIN + 2 * tarfile.BLOCKSIZE


def shard_bytes(packed: PackedShard, spec: CacheSpec, shard: int) -> tuple[bytes, list[list[int]], list[list[int]]]:
    """(the tar, offsets, sizes) of one shard; the last two have an entry per planned position, [n][V], an empty list
    for a failure."""
    assert spec.record_images is not None
    rows = packed.rows
    stored = [place for place, row in enumerate(rows) if row is not None]
    records = [stored[at : at + spec.record_images] for at in range(0, len(stored), spec.record_images)]
    stream = io.BytesIO()
    with webdataset.TarWriter(stream, encoder=False, mtime=0, user="ci2p", group="ci2p") as writer:
        writer.write({"__key__": _ID_KEY, _ID_EXTENSION: packed.id})
        if packed.tables:
            writer.write({"__key__": _TABLES_KEY, _TABLES_EXTENSION: with_checksum(packed.tables)})
        for number, places in enumerate(records):
            images = {
                "keys": [packed.keys[place] for place in places],
                "labels": [int(packed.labels[place]) for place in places],
                "crc32c": [packed.checksums[place] for place in places],
            }
            record = {
                "__key__": _record_key(shard, number),
                _IMAGES: json.dumps(images, ensure_ascii=False, separators=(",", ":")).encode(),
                _LATENTS: b"".join(buffer for place in places for buffer in rows[place] or ()),
            }
            writer.write(record)
    data = stream.getvalue()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        begins = {member.name: member.offset_data for member in tar}
    offsets: list[list[int]] = [[] for _ in rows]
    sizes: list[list[int]] = [[len(buffer) for buffer in row or ()] for row in rows]
    for number, places in enumerate(records):
        begin = begins[f"{_record_key(shard, number)}.{_LATENTS}"]
        for place in places:
            for size in sizes[place]:
                offsets[place].append(begin)
                begin += size
    return data, offsets, sizes


def _record_key(shard: int, record: int) -> str:
    return f"{shard:06d}-{record:04d}"


def view_index(marker: Marker, spec: CacheSpec) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(offsets, sizes) of every view of a shard, int64 [n, V]; size -1 where there is none."""
    if marker.view_offsets is None or marker.view_bytes is None:
        raise WorkError(f"the marker of shard {marker.shard} lacks the index of its tar; run `ci2p verify`")
    none = [-1] * len(spec.views)
    offsets = np.array([row or none for row in marker.view_offsets], dtype=np.int64)
    sizes = np.array([row or none for row in marker.view_bytes], dtype=np.int64)
    return offsets.reshape(-1, len(spec.views)), sizes.reshape(-1, len(spec.views))


def view_checksums(marker: Marker, spec: CacheSpec) -> NDArray[np.int64]:
    """CRC-32C of every view of a shard, int64 [n, V]; -1 where there is none."""
    if marker.view_crc32c is None:
        raise WorkError(f"the marker of shard {marker.shard} lacks the checksums of its tar; run `ci2p verify`")
    none = [-1] * len(spec.views)
    return np.array([row or none for row in marker.view_crc32c], dtype=np.int64).reshape(-1, len(spec.views))


def images_of_records(spec: CacheSpec) -> Callable[[Iterable[dict[str, Any]]], Iterator[dict[str, Any]]]:
    """A stage for `webdataset.WebDataset(...).compose(...)`: records, as they lie in the tars -> image after image.

    An image is {"__key__": str, "cls": int, "latents": stored values [V, C, H, W]}; these are zig-zag uint8 or float16,
    and `codecs.dequantise` gives the latents. 255 stands for an integer beyond +-127: the marker of the shard,
    shards/000000.json, lists them as `escapes`, [image, view, index, integer], the image by its place in the marker's
    `keys`. Raises InputError for a rans store, whose tables a record by itself lacks, and WorkError for a view that is
    damaged, as its checksum says.
    """
    if spec.store == "rans":
        raise InputError(
            "the records of a rans store cannot be decoded one by one; `ci2p convert CACHE TARGET --store int` makes "
            "a cache whose records can"
        )

    def images(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for record in records:
            listed, rest = json.loads(record[_IMAGES]), memoryview(record[_LATENTS])
            unknown = [[None] * len(spec.views)] * len(listed["keys"])  # of format version 1
            checksums = listed.get("crc32c", unknown)
            for key, label, of_image in zip(listed["keys"], listed["labels"], checksums, strict=True):
                views = np.empty((len(spec.views), *spec.latent_shape), dtype=stored_dtype(spec.store))
                for view, expected in zip(views, of_image, strict=True):
                    num_bytes = view.nbytes if spec.store == "float16" else buffer_bytes(rest)
                    if expected not in (None, checksum(rest[:num_bytes])):
                        raise WorkError(f"{record['__url__']}: image {key} is damaged; run `ci2p verify`")
                    unpack(rest[:num_bytes], view, spec.store)
                    rest = rest[num_bytes:]
                yield {"__key__": key, "cls": label, "latents": views}

    return images
