"""The webdataset format: one tar a shard, 64 images a record. The only import of webdataset.

    000000.tar
        __ci2p__/tables.rans      of a rans store alone, first; webdataset skips such names
        000000-0000.json          {"keys": [...], "labels": [...]} of the record's images
        000000-0000.latents       the buffers of their views, one after another

Plain webdataset streams the records, and `images_of_records` makes images of them; where each view lies in a local tar
is kept in the shard's marker, which makes it random-access for us.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import webdataset
from numpy.typing import NDArray

from ci2p_cache.blosc_buffer import buffer_bytes
from ci2p_cache.bounds import SHARD_FILES
from ci2p_cache.codecs import stored_dtype, unpack
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.manifest import Marker
from ci2p_cache.spec import CacheSpec

TABLES_BEGIN = tarfile.BLOCKSIZE  # of a rans shard: behind the header of its first member
_TABLES_KEY, _TABLES_EXTENSION = "__ci2p__/tables", "rans"
_LATENTS, _IMAGES = "latents", "json"


def shard_file(shard: int) -> str:
    """Where a shard lies, relative to the split's folder."""
    return SHARD_FILES["webdataset"].format(shard)


def shard_bytes(
    spec: CacheSpec,
    shard: int,
    keys: Sequence[str],
    labels: Sequence[int],
    rows: Sequence[Sequence[bytes] | None],
    tables: bytes = b"",
) -> tuple[bytes, list[list[int]], list[list[int]]]:
    """(the tar, offsets, sizes) of one shard from its views' buffers.

    `rows` has an entry per planned position, None where the image failed; offsets and sizes have one too, [n][V], with
    an empty list for a failure.
    """
    assert spec.record_images is not None
    stored = [place for place, row in enumerate(rows) if row is not None]
    records = [stored[at : at + spec.record_images] for at in range(0, len(stored), spec.record_images)]
    stream = io.BytesIO()
    with webdataset.TarWriter(stream, encoder=False, mtime=0, user="ci2p", group="ci2p") as writer:
        if tables:
            writer.write({"__key__": _TABLES_KEY, _TABLES_EXTENSION: tables})
        for number, places in enumerate(records):
            images = {"keys": [keys[place] for place in places], "labels": [int(labels[place]) for place in places]}
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


def images_of_records(spec: CacheSpec) -> Callable[[Iterable[dict[str, Any]]], Iterator[dict[str, Any]]]:
    """A stage for `webdataset.WebDataset(...).compose(...)`: records, as they lie in the tars -> image after image.

    An image is {"__key__": str, "cls": int, "latents": stored values [V, C, H, W]}; these are zig-zag uint8 or float16,
    and `codecs.dequantise` gives the latents. 255 stands for an integer beyond +-127: the marker of the shard,
    shards/000000.json, lists them as `escapes`, [image, view, index, integer], the image by its place in the marker's
    `keys`. Raises InputError for a rans store, whose tables a record by itself lacks.
    """
    if spec.store == "rans":
        raise InputError(
            "the records of a rans store cannot be decoded one by one; `ci2p convert CACHE TARGET --store int` makes "
            "a cache whose records can"
        )

    def images(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for record in records:
            listed, rest = json.loads(record[_IMAGES]), memoryview(record[_LATENTS])
            for key, label in zip(listed["keys"], listed["labels"], strict=True):
                views = np.empty((len(spec.views), *spec.latent_shape), dtype=stored_dtype(spec.store))
                for view in views:
                    num_bytes = view.nbytes if spec.store == "float16" else buffer_bytes(rest)
                    unpack(rest[:num_bytes], view, spec.store)
                    rest = rest[num_bytes:]
                yield {"__key__": key, "cls": label, "latents": views}

    return images
