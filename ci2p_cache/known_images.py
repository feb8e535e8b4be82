"""Which images a model was trained on and which were held out, small enough to go with every run (promise C7).

An image is known by 8 bytes: of its content's hash; of its key and size where contents are not known (images that were
never encoded); of its key alone where the cache is of format version 1.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.cache import Cache
from ci2p_cache.errors import WorkError
from ci2p_cache.items import Contents, id_prefixes
from ci2p_cache.packed_strings import PackedStrings

KnownBy = Literal["content", "name and size", "name"]
_ID_BYTES = 8


@dataclass(frozen=True)
class HeldOut:
    """The images of one split by key, each with its identity."""

    keys: PackedStrings
    ids: NDArray[np.uint64]  # [N], as the keys


@dataclass(frozen=True)
class KnownImages:
    """What a run knows of its images."""

    by: KnownBy
    trained: NDArray[np.uint64]  # ids of the training images, ascending
    held_out: HeldOut  # the split that the run was validated on


def content_id(hash: str) -> int:
    """The identity of a content by its hash, as `items.hash_content` gives it."""
    return int(hash[: 2 * _ID_BYTES], 16)


def name_id(key: str, num_bytes: int = -1) -> int:
    """The identity of a key, or of a key and a size."""
    text = key if num_bytes < 0 else f"{key}\t{num_bytes}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=_ID_BYTES).digest(), "big")


def known_images(train: Cache, val: Cache) -> KnownImages:
    """What the splits of a cache hold, failed images left out. Raises WorkError when their item lists are damaged."""
    by: KnownBy = "content"
    if train.spec.format_version == 1 or not _all_known(train):
        by = "name"
    trained = _ids_of(train, by)
    trained.sort()
    return KnownImages(by, trained, held_out_of(val, by))


def held_out_of(cache: Cache, by: KnownBy) -> HeldOut:
    """The stored images of a split, in the order of their positions."""
    return HeldOut(cache.read_keys(), _ids_of(cache, by))


def _all_known(cache: Cache) -> bool:
    """Whether the content of every stored image is known."""
    unknown = ~_contents(cache).known
    return np.count_nonzero(unknown) == np.count_nonzero(unknown[cache.failed])


def _ids_of(cache: Cache, by: KnownBy) -> NDArray[np.uint64]:
    """[N] of the stored images, in the order of their positions; not in memory where there are many."""
    if by != "content":
        return as_ids(name_id(key) for key in cache.read_keys())
    prefixes = id_prefixes(_contents(cache))
    if not len(cache.failed):
        return prefixes
    return prefixes[cache.positions]


def as_ids(ids: Iterable[int]) -> NDArray[np.uint64]:
    return np.fromiter(ids, dtype=np.uint64)


def dump_known_images(known: KnownImages) -> bytes:
    """As a numpy .npz file."""
    stream = io.BytesIO()
    np.savez(
        stream,
        known_by=np.frombuffer(known.by.encode(), np.uint8),
        trained=known.trained.astype("<u8"),
        held_out_keys=np.frombuffer(known.held_out.keys.block, np.uint8),
        held_out_key_bounds=known.held_out.keys.bounds.astype("<i8"),
        held_out=known.held_out.ids.astype("<u8"),
    )
    return stream.getvalue()


def parse_known_images(data: bytes, where: str) -> KnownImages:
    """Raises WorkError, naming `where` the bytes came from, when they are none."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays: dict[str, NDArray[Any]] = {name: file[name] for name in file.files}
        by = arrays["known_by"].tobytes().decode()
        keys = PackedStrings.from_block(arrays["held_out_keys"].tobytes(), arrays["held_out_key_bounds"])
        if by not in ("content", "name and size", "name") or len(keys) != len(arrays["held_out"]):
            raise ValueError("its arrays do not fit together")
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise WorkError(f"{where} is damaged ({error}); delete it, and give --shards CACHE in its place") from error
    return KnownImages(by, arrays["trained"], HeldOut(keys, arrays["held_out"]))  # type: ignore[arg-type]


def _contents(cache: Cache) -> Contents:
    contents = cache.read_contents()
    assert contents is not None
    return contents
