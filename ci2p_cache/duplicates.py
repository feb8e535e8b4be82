"""Images that are there more than once, byte for byte, as their hashes tell."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.items import Contents, ItemList, has_contents, id_prefixes, read_contents
from ci2p_cache.packed_strings import PackedStrings
from ci2p_cache.remote_path import AnyPath
from ci2p_cache.scratch import scratch_array
from ci2p_cache.seals import MANIFEST

_KEYS_KEPT = 10
# Which splits are looked through for images of one: it is those held out that should not have been trained on.
_BEFORE = {"val": ("train",), "test": ("train", "val")}


class Duplicates(BaseModel):
    """What the maker of a data set should know of one split. Failed images are not looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    again: int = 0  # images that are there already under another key
    again_keys: tuple[str, ...] = ()  # the first of them in alphabetical order, ten at most
    two_labels: int = 0  # images that are there under two labels or more, each counted once
    two_labels_keys: tuple[str, ...] = ()  # a key of each of the first of them
    also_in: dict[str, int] = {}  # of val and test: earlier split -> how many images of this one are in it too
    also_in_keys: dict[str, tuple[str, ...]] = {}


NO_DUPLICATES = Duplicates()


def find_duplicates(
    cache: AnyPath, split: str, items: ItemList, contents: Contents, labels: NDArray[np.int32]
) -> Duplicates:
    """Of one split, within itself and in those of the earlier splits of its cache that are finished.

    `labels` are the manifest's, negative where an image failed.
    """
    is_stored = contents.known & (labels >= 0)
    prefixes = id_prefixes(contents)
    rows = np.flatnonzero(is_stored & np.isin(prefixes, _repeated(prefixes)))
    hashes_N = _as_scalars(contents)[rows]
    _, first, group_N, count = np.unique(hashes_N, return_index=True, return_inverse=True, return_counts=True)
    group_N = group_N.reshape(-1)
    is_again = np.ones(len(rows), dtype=bool)
    is_again[first] = False
    labels_N = items.labels[rows]
    differs = np.zeros(len(count), dtype=bool)
    differs[group_N[labels_N != labels_N[first][group_N]]] = True
    shared = {}
    for other in _BEFORE.get(split, ()):
        theirs = _read_hashes(cache / other)
        if theirs is not None:
            both = np.flatnonzero(is_stored & np.isin(prefixes, theirs["prefix"]))
            alike = theirs["whole"][np.isin(theirs["prefix"], prefixes[both])]
            both = both[np.isin(_as_scalars(contents)[both], alike)]
            if len(both):
                shared[other] = both
    return Duplicates(
        again=int(is_again.sum()),
        again_keys=_first_keys(items.keys, rows[is_again]),
        two_labels=int(differs.sum()),
        two_labels_keys=_first_keys(items.keys, rows[first[differs]]),
        also_in={other: len(found) for other, found in shared.items()},
        also_in_keys={other: _first_keys(items.keys, found) for other, found in shared.items()},
    )


def splits_after(split: str) -> tuple[str, ...]:
    """Those whose duplicates have to do with what is in this one."""
    return tuple(later for later, before in _BEFORE.items() if split in before)


def _repeated(prefixes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Those that are there more than once, sorted: a sort of 8 bytes each finds the few that are looked at whole."""
    ascending: NDArray[np.uint64] = scratch_array(prefixes.shape, np.uint64)
    ascending[:] = prefixes
    ascending.sort()
    repeated: NDArray[np.uint64] = np.unique(ascending[1:][ascending[1:] == ascending[:-1]])
    return repeated


def _read_hashes(split_dir: AnyPath) -> dict[str, NDArray[Any]] | None:
    """Of the stored images of a finished split; None where it is not, or is of format version 1, which knows none.

    A split whose manifest is damaged is not finished; once it is again, this is looked for again too.
    """
    path = split_dir / MANIFEST
    if not path.exists() or not has_contents(split_dir):
        return None
    from ci2p_cache.manifest import read_manifest  # which holds `Duplicates`

    try:
        manifest = read_manifest(split_dir)
    except (WorkError, InputError):
        return None
    labels = manifest.labels.whole()
    contents = read_contents(split_dir, len(labels), manifest.seals)
    is_stored = contents.known & (labels >= 0)
    return {"whole": _as_scalars(contents)[is_stored], "prefix": id_prefixes(contents)[is_stored]}


def describe_duplicates(split: str, duplicates: Duplicates) -> list[str]:
    """For people: a line for each thing that there is to say."""
    lines = []
    for other, count in duplicates.also_in.items():
        shown = _shown(duplicates.also_in_keys[other], count)
        lines.append(f"images of {split} that are also in {other}, byte for byte: {shown}")
    if duplicates.again:
        shown = _shown(duplicates.again_keys, duplicates.again)
        lines.append(f"images of {split} that are there again under another key: {shown}")
    if duplicates.two_labels:
        shown = _shown(duplicates.two_labels_keys, duplicates.two_labels)
        lines.append(f"images of {split} that are there under two labels: {shown}")
    return lines


def _shown(keys: tuple[str, ...], count: int) -> str:
    return f"{count:,} ({', '.join(keys[:3])}{', ...' if count > 3 else ''})"


def _first_keys(keys: PackedStrings, rows: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(sorted(keys[row] for row in rows.tolist())[:_KEYS_KEPT])


def _as_scalars(contents: Contents) -> NDArray[np.void]:
    """Hashes that compare as wholes, [N]."""
    hashes: NDArray[np.void] = np.ascontiguousarray(contents.hashes).view("V16").reshape(-1)
    return hashes
