"""The webdataset format: one tar a shard, one sample an image. The only import of webdataset.

    000000.tar
        __ci2p__/tables.rans                         of a rans store alone, first; webdataset skips such names
        n01440764/ILSVRC2012_val_00000293.cls        the label, decimal
        n01440764/ILSVRC2012_val_00000293.latents    the buffers of its views, one after another

Plain webdataset streams these. `latent_decoder` turns the second into an array; where each view lies in a local tar is
kept in the shard's marker, which makes it random-access for us.
"""

import io
import tarfile
from collections.abc import Callable, Sequence

import numpy as np
import webdataset
from numpy.typing import NDArray

from ci2p_cache.codecs import packed_bytes, stored_dtype, unpack
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.manifest import Marker
from ci2p_cache.spec import CacheSpec

EXTENSION = "latents"
TABLES_BEGIN = tarfile.BLOCKSIZE  # of a rans shard: behind the header of its first member
_TABLES_KEY, _TABLES_EXTENSION = "__ci2p__/tables", "rans"


def shard_file(shard: int) -> str:
    """Where a shard lies, relative to the split's folder."""
    return f"{shard:06d}.tar"


def sample_key(key: str) -> str:
    """The key as webdataset shows it: dots, where it would cut the extension off, become %2E."""
    return key.replace("%", "%25").replace(".", "%2E")


def shard_bytes(
    keys: Sequence[str], labels: Sequence[int], rows: Sequence[Sequence[bytes] | None], tables: bytes = b""
) -> tuple[bytes, list[list[int]], list[list[int]]]:
    """(the tar, offsets, sizes) of one shard from its views' buffers.

    `rows` has an entry per planned position, None where the image failed; offsets and sizes have one too, [n][V], with
    an empty list for a failure.
    """
    stream = io.BytesIO()
    with webdataset.TarWriter(stream, encoder=False, mtime=0, user="ci2p", group="ci2p") as writer:
        if tables:
            writer.write({"__key__": _TABLES_KEY, _TABLES_EXTENSION: tables})
        for key, label, buffers in zip(keys, labels, rows, strict=True):
            if buffers is not None:
                sample = {
                    "__key__": sample_key(key),
                    "cls": str(label).encode(),
                    EXTENSION: b"".join(buffers),
                }
                writer.write(sample)
    data = stream.getvalue()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        begins = {member.name: member.offset_data for member in tar}
    offsets: list[list[int]] = []
    sizes: list[list[int]] = []
    for key, buffers in zip(keys, rows, strict=True):
        lengths = [len(buffer) for buffer in buffers or ()]
        begin = begins[f"{sample_key(key)}.{EXTENSION}"] if lengths else 0
        offsets.append([begin + sum(lengths[:view]) for view in range(len(lengths))])
        sizes.append(lengths)
    return data, offsets, sizes


def view_index(marker: Marker, spec: CacheSpec) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(offsets, sizes) of every view of a shard, int64 [n, V]; size -1 where there is none."""
    if marker.view_offsets is None or marker.view_bytes is None:
        raise WorkError(f"the marker of shard {marker.shard} lacks the index of its tar; run `ci2p verify`")
    none = [-1] * len(spec.views)
    offsets = np.array([row or none for row in marker.view_offsets], dtype=np.int64)
    sizes = np.array([row or none for row in marker.view_bytes], dtype=np.int64)
    return offsets.reshape(-1, len(spec.views)), sizes.reshape(-1, len(spec.views))


def latent_decoder(spec: CacheSpec) -> Callable[[str, bytes], NDArray[np.generic] | None]:
    """A handler for `webdataset.WebDataset(...).decode(...)`: .latents -> stored values [V, C, H, W].

    They are zig-zag uint8 or float16; `codecs.dequantise` gives the latents. 255 stands for an integer beyond +-127:
    the marker of the shard, shards/000000.json, lists them as `escapes`, [image, view, index, integer], the image by
    its place in the marker's `keys`. Raises InputError for a rans store, whose tables a sample by itself lacks.
    """
    if spec.store == "rans":
        raise InputError(
            "the samples of a rans store cannot be decoded one by one; `ci2p convert CACHE TARGET --store int` makes "
            "a cache whose samples can"
        )

    def decode(extension: str, data: bytes) -> NDArray[np.generic] | None:
        if not extension.endswith(EXTENSION):
            return None
        views = np.empty((len(spec.views), *spec.latent_shape), dtype=stored_dtype(spec.store))
        rest = memoryview(data)
        for view in views:
            num_bytes = view.nbytes if spec.store == "float16" else packed_bytes(rest)
            unpack(rest[:num_bytes], view, spec.store)
            rest = rest[num_bytes:]
        return views

    return decode
