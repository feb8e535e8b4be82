"""The images of a split by key, label and content: a table of plain arrays in the order of the plan's positions.

SPLIT/items/    written before the first shard, and from then on what the split is made of
    classes.json       class names in the order of the labels
    keys.npy           uint8 [K], all keys as UTF-8, one after another
    key_bounds.npy     int64 [N + 1], where each key begins; the last is K
    labels.npy         int32 [N], as the data set has them, of images that fail too; -1 where format version 1 did not
                       keep them. Written last of these four
and, once every shard is there,
    num_bytes.npy      int64 [N], the size of each image file; -1 where none was read
    hashes.npy         uint8 [N, 16], BLAKE2b-128 of each image file; zeros where none was read
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.arrays import Parts, map_array, map_file, npy_parts
from ci2p_cache.errors import WorkError
from ci2p_cache.packed_strings import PackedStrings
from ci2p_cache.publish import publish
from ci2p_cache.remote_path import AnyPath
from ci2p_cache.scratch import scratch_array
from ci2p_cache.seals import FileSeal, Seals

HASH_BYTES = 16
NO_BYTES = -1  # the size of an image file that was not read
FOLDER = "items"
_BOUNDS_AT_ONCE = 1 << 20
LIST_FILES = tuple(f"{FOLDER}/{name}" for name in ("classes.json", "keys.npy", "key_bounds.npy", "labels.npy"))


@dataclass(frozen=True)
class ItemList:
    """What a split is made of, N items in some order: the plan's where it comes from a cache."""

    classes: tuple[str, ...]
    keys: PackedStrings
    labels: NDArray[np.int32]  # [N] in [0, num_classes), or -1: see above


@dataclass(frozen=True, eq=False)
class Contents:
    """What each image file held, N of them in the order of the positions."""

    num_bytes: NDArray[np.int64]  # [N]; NO_BYTES where none was read
    hashes: NDArray[np.uint8]  # [N, 16]

    @property
    def known(self) -> NDArray[np.bool_]:
        """[N] whether the file was read at all."""
        known: NDArray[np.bool_] = self.num_bytes != NO_BYTES
        return known

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Contents):
            return NotImplemented
        return np.array_equal(self.num_bytes, other.num_bytes) and np.array_equal(self.hashes, other.hashes)

    __hash__ = None  # type: ignore[assignment]

    def hash_at(self, position: int) -> str:
        """As `hash_content` gives it; of a file that was read."""
        hash: str = self.hashes[position].tobytes().hex()
        return hash


@dataclass(frozen=True)
class ImageContent:
    """What one image file held when it was read, as markers keep it."""

    num_bytes: int = NO_BYTES
    hash: str = ""  # of `hash_content`
    modified_ns: int = -1  # since 1970; -1 where it is not known


def hash_content(data: bytes) -> str:
    """What an image file is known by: 32 hexadecimal digits of its BLAKE2b-128, as `b2sum -l 128` prints them."""
    return hashlib.blake2b(data, digest_size=HASH_BYTES).hexdigest()


def write_item_list(split_dir: AnyPath, items: ItemList) -> None:
    """Publishes what a split is made of, the labels last: with them the list is there."""
    folder = split_dir / FOLDER
    publish(folder / "classes.json", json.dumps(items.classes, ensure_ascii=False).encode())
    publish(folder / "keys.npy", *npy_parts(np.frombuffer(items.keys.block, np.uint8)))
    publish(folder / "key_bounds.npy", *npy_parts(items.keys.bounds))
    publish(folder / "labels.npy", *npy_parts(items.labels.astype(np.int32, copy=False)))


def contents_files(contents: Contents) -> dict[str, Parts]:
    """The files, by their path in a split's folder, that say what its image files held."""
    return {
        f"{FOLDER}/num_bytes.npy": npy_parts(contents.num_bytes),
        f"{FOLDER}/hashes.npy": npy_parts(contents.hashes),
    }


def has_item_list(split_dir: AnyPath) -> bool:
    """Whether a split has begun, in the format of today."""
    return all((split_dir / name).exists() for name in LIST_FILES)


def has_contents(split_dir: AnyPath) -> bool:
    """Whether a split that is finished knows what its image files held."""
    return (split_dir / FOLDER / "hashes.npy").exists()


def read_item_list(split_dir: str | AnyPath, seals: Seals | None = None) -> ItemList:
    """The list of a split, local or remote. Raises WorkError when it is damaged or missing, or not what was sealed."""
    where = f"{split_dir}/{FOLDER}"
    labels = _array(split_dir, "labels.npy", np.int32, 1, seals)
    keys = _array(split_dir, "keys.npy", np.uint8, 1, seals)
    bounds = _array(split_dir, "key_bounds.npy", np.int64, 1, seals)
    classes = _classes(split_dir, seals)
    whole = len(bounds) == len(labels) + 1 and bounds[0] == 0 and bounds[-1] == len(keys) and _is_ascending(bounds)
    if not whole or labels.min(initial=0) < -1 or labels.max(initial=-1) >= len(classes):
        raise WorkError(f"{where} is damaged: its arrays do not fit together; encode the split again")
    return ItemList(classes, PackedStrings.from_block(keys.data, bounds), labels)


def read_contents(split_dir: str | AnyPath, num_items: int, seals: Seals | None = None) -> Contents:
    """What the image files of a finished split held. Raises WorkError as `read_item_list` does."""
    where = f"{split_dir}/{FOLDER}"
    contents = Contents(
        _array(split_dir, "num_bytes.npy", np.int64, 1, seals), _array(split_dir, "hashes.npy", np.uint8, 2, seals)
    )
    if len(contents.num_bytes) != num_items or contents.hashes.shape != (num_items, HASH_BYTES):
        raise WorkError(f"{where} is damaged: its arrays do not fit together; encode the split again")
    return contents


def unknown_contents(num_items: int) -> Contents:
    """To be filled in, part by part: nothing has been read of any image."""
    num_bytes = scratch_array((num_items,), np.int64)
    num_bytes[:] = NO_BYTES
    return Contents(num_bytes, scratch_array((num_items, HASH_BYTES), np.uint8))


def hashes_of(hashes: list[str]) -> NDArray[np.uint8]:
    """[n, 16] of hexadecimal hashes as markers have them, "" where no file was read."""
    none = bytes(HASH_BYTES)
    block = b"".join(bytes.fromhex(each) if each else none for each in hashes)
    return np.frombuffer(block, dtype=np.uint8).reshape(len(hashes), HASH_BYTES)


def id_prefixes(contents: Contents) -> NDArray[np.uint64]:
    """The first 8 bytes of every hash, [N], as numbers; not in memory where there are many."""
    prefixes: NDArray[np.uint64] = scratch_array((len(contents.hashes),), np.uint64)
    prefixes[:] = contents.hashes.view(">u8")[:, 0]
    return prefixes


def hash_contents(items: ItemList, contents: Contents) -> str:
    """SHA-256 over every key, label, size and hash: two splits with equal ones hold the same images."""
    digest = hashlib.sha256()
    digest.update(items.keys.block)
    for array, dtype in (
        (items.keys.bounds, "<i8"),
        (items.labels, "<i4"),
        (contents.num_bytes, "<i8"),
        (contents.hashes.reshape(-1), "u1"),
    ):
        digest.update(np.ascontiguousarray(array.astype(dtype, copy=False)).view(np.uint8).data)
    return digest.hexdigest()


def _is_ascending(bounds: NDArray[np.int64]) -> bool:
    steps = range(0, len(bounds) - 1, _BOUNDS_AT_ONCE)
    return not any(np.any(np.diff(bounds[begin : begin + _BOUNDS_AT_ONCE + 1]) < 0) for begin in steps)


def _array(
    split_dir: str | AnyPath, name: str, dtype: type[np.generic], dimensions: int, seals: Seals | None
) -> NDArray[Any]:
    name = f"{FOLDER}/{name}"
    return map_array(split_dir, name, dtype, dimensions, _seal(name, split_dir, seals))


def _seal(name: str, split_dir: str | AnyPath, seals: Seals | None) -> FileSeal | None:
    """Raises WorkError for a file that the seals do not have."""
    if seals is not None and name not in seals:
        raise WorkError(f"{split_dir}/{name} is no file of the split; run `ci2p verify`")
    return None if seals is None else seals[name]


def _classes(split_dir: str | AnyPath, seals: Seals | None) -> tuple[str, ...]:
    name = f"{FOLDER}/classes.json"
    where, data = f"{split_dir}/{FOLDER}", bytes(map_file(split_dir, name, _seal(name, split_dir, seals)))
    try:
        classes = json.loads(data)
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ValueError
    except (ValueError, RecursionError) as error:
        raise WorkError(f"{where}/classes.json is damaged; encode the split again") from error
    return tuple(classes)
