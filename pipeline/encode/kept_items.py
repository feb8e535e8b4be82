"""What a cache was begun with, beside what the data set holds now: the first item list stays the plan.

An item that has gone since is a failure like any other; only new ones refuse the cache.
"""

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.errors import InputError
from ci2p_cache.items import ItemList, has_item_list, read_item_list, write_item_list
from ci2p_cache.left_out import LeftOut
from ci2p_cache.manifest import read_seals
from ci2p_cache.packed_strings import PackedStrings
from ci2p_cache.plan import plan_order
from ci2p_cache.remote_path import AnyPath
from ci2p_cache.scratch import taken
from pipeline.encode.datasets import SPLITS, ImageDataset, ImageSplit
from pipeline.encode.datasets.split import Stamp

GONE = "it is gone since the cache was begun"
_SHOWN = 3


@dataclass(frozen=True, eq=False)
class KeptSplit:
    """An ImageSplit of the items that a cache was begun with, sorted by key; each is read from what there is now."""

    classes: tuple[str, ...]
    keys: PackedStrings
    labels: NDArray[np.int64]
    index_now: NDArray[np.int64]  # [N] into `now`; -1 where an item has gone
    now: ImageSplit
    left_out: tuple[LeftOut, ...]

    def read_bytes(self, index: int) -> bytes:
        return self.now.read_bytes(self._index(index))

    def stamp(self, index: int) -> Stamp:
        return self.now.stamp(self._index(index))

    def _index(self, index: int) -> int:
        found = int(self.index_now[index])
        if found < 0:
            raise FileNotFoundError(errno.ENOENT, GONE, self.keys[index])
        return found


def fit_to_cache(opened: ImageDataset, cache: AnyPath) -> dict[str, ImageSplit]:
    """The splits of a data set as a cache was begun with them; unchanged where it was not.

    Raises InputError naming items that are new since, or under another class.
    """
    kept = _kept_lists(cache)
    drawn = _drawn(opened, kept)
    fitted: dict[str, ImageSplit] = {}
    for split in opened:
        if split not in kept:
            fitted[split] = drawn.get(split, opened[split])
        elif split in drawn and opened.pool is not None:
            other = "val" if split == "train" else "train"
            others = kept[other].keys if other in kept else drawn[other].keys
            fitted[split] = _fit(kept[split], opened.pool, (kept[split].keys, others), cache / split)
        else:
            fitted[split] = _fit(kept[split], opened[split], (kept[split].keys,), cache / split)
    return fitted


def keep_items(opened: ImageDataset, cache: AnyPath, *, seed: int) -> dict[str, NDArray[np.int64]]:
    """Writes the item list of each split into a cache, in the order of its plan, unless one is there.

    Where val was held out, those of both parts, whichever is wanted: what is held out is drawn once.
    Returns the plan of each that was written: see `plan_order`.
    """
    plans = {}
    for name, split in {**opened.splits, **_drawn(opened, _kept_lists(cache))}.items():
        if not has_item_list(cache / name):
            plans[name] = plan_order(split.keys, seed)
            keys = split.keys if isinstance(split.keys, PackedStrings) else PackedStrings(split.keys)
            labels = taken(split.labels, plans[name], np.int32)
            write_item_list(cache / name, ItemList(split.classes, keys.take(plans[name]), labels))
    return plans


def _kept_lists(cache: AnyPath) -> dict[str, ItemList]:
    return {
        split: read_item_list(cache / split, read_seals(cache / split))
        for split in SPLITS
        if has_item_list(cache / split)
    }


def _drawn(opened: ImageDataset, kept: Mapping[str, ItemList]) -> Mapping[str, ImageSplit]:
    """The two parts of which one was held out; where a kill came between their lists, the second is all the rest."""
    for part, other in (("train", "val"), ("val", "train")):
        if opened.pool is not None and part in kept and other not in kept:
            theirs = set(kept[part].keys)
            rest = [item for item, key in enumerate(opened.pool.keys) if key not in theirs]
            return {part: opened.drawn[part], other: opened.pool.subset(np.array(rest, dtype=np.int64))}
    return opened.drawn


def _fit(kept: ItemList, now: ImageSplit, known: Sequence[Sequence[str]], where: AnyPath) -> ImageSplit:
    """Where nothing has changed it is what there is now, and no set of keys is made."""
    rows = kept.keys.order()
    keys = kept.keys.take(rows)
    labels = kept.labels[rows].astype(np.int64)
    if keys == now.keys and kept.classes == now.classes and np.array_equal(labels, now.labels):
        return now
    known_keys = {key for each in known for key in each}
    index_of = {key: index for index, key in enumerate(now.keys)}
    new = [key for key in now.keys if key not in known_keys]
    if new:
        raise InputError(
            f"{where} was begun without {len(new)} of the images that are there now ({_shown(new)}); "
            "move them out of --data-dir to go on with this cache, or give another --out"
        )
    index_now = np.array([index_of.get(key, -1) for key in keys], dtype=np.int64)
    for item in np.flatnonzero(index_now >= 0).tolist():
        here = now.classes[now.labels[index_now[item]]]
        if labels[item] < 0 and here in kept.classes:  # format version 1 did not keep it
            labels[item] = kept.classes.index(here)
        there = kept.classes[labels[item]]
        if there != here:
            raise InputError(
                f"{where}: image {keys[item]} is of class {there} in the cache and of class {here} now; "
                "put it back, or give another --out"
            )
    return KeptSplit(kept.classes, keys, labels, index_now, now, now.left_out)


def _shown(keys: Sequence[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
