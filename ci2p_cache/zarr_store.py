"""The zarr format: one zarr v3 group whose shards are written whole. The only import of zarr.

    latents.zarr/                attributes: what the values mean
        latents/                 [num_items, V, C, H, W] uint8 or float16; one view a chunk, `shard_size` images a shard
            c/7/0/0/0/0          shard 7: its id; of a rans store its tables; the views' buffers one after another, each
                                 with its CRC-32C (zarr's codec crc32c), and the tables with theirs; the index
        labels/                  [num_items] int32; -1 where the image failed
        keys/                    [num_items] string, 65,536 a chunk; for other readers, ci2p has them in items/

A shard's index holds (offset, size) of every chunk as little-endian uint64, both 2**64 - 1 for a chunk that is not
there, and a CRC-32C of it (zarr v3 sharding codec). ci2p writes shards and reads the index by itself, for
zarr-python handles about 400 views a second one at a time; what zarr-python makes of the same files is held by a test.

The chunks of a rans store name a codec, `ci2p.rans`, that no other reader has: zarr-python opens the group and its
labels and refuses the latents by that name, rather than returning something else.
"""

import json
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.buffer import Buffer
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore

from ci2p_cache.arrays import Parts, npy_parts
from ci2p_cache.bounds import SHARD_FILES
from ci2p_cache.checksums import CHECKSUM_BYTES, ID_BYTES, PackedShard, is_whole, with_checksum
from ci2p_cache.codecs import ESCAPE, INT_LIMIT, stored_dtype
from ci2p_cache.errors import WorkError
from ci2p_cache.manifest import Manifest
from ci2p_cache.marker import NO_LABEL
from ci2p_cache.scratch import GrowingBytes
from ci2p_cache.spec import CacheSpec

GROUP = "latents.zarr"
RANS_CODEC = "ci2p.rans"
ID_BEGIN = 0
_MISSING = np.uint64(2**64 - 1)
_MOST_KEYS = 1 << 16  # of a chunk


def shard_file(shard: int) -> str:
    """Where a shard lies, relative to the split's folder."""
    return SHARD_FILES["zarr"].format(shard)


def tables_begin(spec: CacheSpec) -> int:
    """Where the tables of a rans shard are in its file."""
    return 0 if spec.format_version == 1 else ID_BEGIN + ID_BYTES


def shard_bytes(packed: PackedShard, spec: CacheSpec) -> bytes:
    """The file of one shard."""
    index = np.full((spec.shard_size, len(spec.views), 2), _MISSING, dtype="<u8")
    parts = [packed.id]
    if packed.tables:
        parts.append(with_checksum(packed.tables))
    offset = sum(map(len, parts))
    for place, (buffers, checksums) in enumerate(zip(packed.rows, packed.checksums, strict=True)):
        for view, (buffer, checksum) in enumerate(zip(buffers or (), checksums, strict=True)):
            size = len(buffer) + CHECKSUM_BYTES
            index[place, view] = offset, size
            parts += [buffer, checksum.to_bytes(CHECKSUM_BYTES, "little")]
            offset += size
    return b"".join([*parts, with_checksum(index.tobytes())])


def view_index(shard: memoryview, spec: CacheSpec) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(offsets, sizes) of every view of a shard, its checksum included, int64 [shard_size, V]; size -1 where there is
    none.

    Raises WorkError when the index does not carry its own checksum.
    """
    num_bytes = spec.shard_size * len(spec.views) * 16 + CHECKSUM_BYTES
    footer = shard[-num_bytes:]
    if len(footer) != num_bytes or not is_whole(footer):
        raise WorkError("the index of a zarr shard is damaged; run `ci2p verify`")
    index = np.frombuffer(footer[:-CHECKSUM_BYTES], dtype="<u8").reshape(spec.shard_size, len(spec.views), 2)
    missing = index[..., 1] == _MISSING
    offsets = np.where(missing, 0, index[..., 0]).astype(np.int64)
    sizes = np.where(missing, 0, index[..., 1]).astype(np.int64)
    sizes[missing] = -1
    return offsets, sizes


def metadata_files(manifest: Manifest, keys: Sequence[str]) -> dict[str, Parts]:
    """The group's metadata, its labels and keys, which make the shards a zarr that any reader opens, by path in the
    split."""
    spec, labels = manifest.spec, manifest.labels.whole()
    # A dict of ours, to be read without an event loop of its own: in a notebook one is running already.
    written: dict[str, Buffer] = {}
    group = zarr.create_group(store=MemoryStore(written), zarr_format=3, attributes=_attributes(manifest))
    blosc = BloscCodec(typesize=1, cname="zstd", clevel=5, shuffle="bitshuffle")
    shape = (len(labels), len(spec.views), *spec.latent_shape)
    group.create_array(
        "latents",
        shape=shape,
        chunks=(1, 1, *spec.latent_shape),
        shards=(spec.shard_size, len(spec.views), *spec.latent_shape),
        dtype=stored_dtype(spec.store),
        compressors=[Crc32cCodec()] if spec.store == "float16" else [blosc, Crc32cCodec()],
        fill_value=0,
        dimension_names=("image", "view", "channel", "row", "column"),
    )
    group.create_array(
        "labels",
        shape=(len(labels),),
        chunks=(len(labels),),
        dtype=np.int32,
        compressors=None,
        fill_value=NO_LABEL,
    )
    group.create_array(
        "keys",
        shape=(len(labels),),
        chunks=(_keys_a_chunk(keys),),
        dtype="string",
        compressors=None,
        fill_value="",
    )
    contents: dict[str, Parts] = {key: (value.to_bytes(),) for key, value in written.items()} | _key_chunks(keys)
    if manifest.num_images:  # a chunk of nothing but the fill value is left out
        contents["labels/c/0"] = npy_parts(labels)[1:]
    if spec.store == "rans":
        contents["latents/zarr.json"] = (_with_rans(written["latents/zarr.json"].to_bytes()),)
    return {f"{GROUP}/{key}": parts for key, parts in contents.items()}


def _keys_a_chunk(keys: Sequence[str]) -> int:
    return min(max(1, len(keys)), _MOST_KEYS)


def _key_chunks(keys: Sequence[str]) -> dict[str, Parts]:
    """Chunks as zarr's codec vlen-utf8 has them: the number of strings, then each as its length and its UTF-8.

    Of a name that is no UTF-8, a byte that is none is written as \\udcNN.
    """
    size = _keys_a_chunk(keys)
    block, ends = GrowingBytes(), [0]
    for first in range(0, len(keys), size):
        encoded = [key.encode("utf-8", "backslashreplace") for key in keys[first : first + size]]
        encoded += [b""] * (size - len(encoded))  # the last chunk is as long as the others
        chunk = b"".join(part for text in encoded for part in (len(text).to_bytes(4, "little"), text))
        block.add(size.to_bytes(4, "little") + chunk)
        ends.append(ends[-1] + 4 + len(chunk))
    whole = memoryview(block.whole())
    return {f"keys/c/{number}": (whole[begin:end],) for number, (begin, end) in enumerate(pairwise(ends))}


def _with_rans(metadata: bytes) -> bytes:
    """An array's metadata with the codec that its chunks are really in."""
    array = json.loads(metadata)
    (sharding,) = array["codecs"]
    sharding["configuration"]["codecs"] = [{"name": RANS_CODEC}, {"name": "crc32c"}]
    return json.dumps(array, indent=2).encode()


def _attributes(manifest: Manifest) -> dict[str, object]:
    """What somebody needs who opens the group without ci2p."""
    spec = manifest.spec
    if spec.store == "float16":
        meaning = "latent = stored value"
    else:
        meaning = "latent = step * ((v >> 1) ^ -(v & 1)), v a stored value as a signed integer (zig-zag)"
    if manifest.num_escapes:
        meaning += (
            f"; v = {ESCAPE} stands for an integer beyond +-{INT_LIMIT}: ../shards/NNNNNN.json lists those of shard "
            "NNNNNN as escapes, [image in the shard, view, index into the flattened latent, integer]"
        )
    if spec.store == "rans":
        meaning += "; the chunks are coded by ci2p, and `ci2p convert CACHE TARGET --store int` makes them plain"
    return {
        "spec": spec.model_dump(mode="json"),
        "views": list(spec.views),
        "classes": manifest.classes,
        "meaning": meaning,
    }
