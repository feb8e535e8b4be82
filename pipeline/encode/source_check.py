"""A cache held against the images that it was made from: which have changed, gone or come since."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from ci2p_cache.cache import open_cache
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.items import has_item_list, hash_content, read_item_list
from ci2p_cache.manifest import read_seals
from ci2p_cache.remote_path import AnyPath
from pipeline.encode.datasets import ImageSplit, open_pool
from pipeline.running.progress import progress

logger = logging.getLogger("ci2p")

_READING_THREADS = 8
_GONE = ""


def check_source(cache_dir: AnyPath, split: str, data_dir: str) -> list[str]:
    """Everything in which a split and its images differ, a line each. Reads and hashes every image.

    Raises InputError when `data_dir` is no such data set.
    """
    try:
        cache = open_cache(cache_dir, split)
        items, contents = cache.read_items(), cache.read_contents()
    except (InputError, WorkError):
        return []  # what is wrong with the cache itself is said by `verify_split`
    spec = cache.spec
    pool = open_pool(
        spec.dataset,
        data_dir,
        split,
        is_held_out=spec.val_fraction is not None,
        seed=spec.seed,
        columns=spec.columns,
        classes=items.classes,
    )
    index_of = {key: index for index, key in enumerate(pool.keys)}
    problems = [f"{split}: image {key} is not in {data_dir}" for key in items.keys if key not in index_of]
    if contents is None:
        problems.append(
            f"{split}: what its images held is not known to a cache of format version 1; keys were compared"
        )
    else:
        known = [place for place, key in enumerate(items.keys) if contents.known[place] and key in index_of]
        found = _hashes(pool, [index_of[items.keys[place]] for place in known], split)
        for place, now in zip(known, found, strict=True):
            if now == _GONE:
                problems.append(f"{split}: image {items.keys[place]} cannot be read in {data_dir}")
            elif now != contents.hash_at(place):
                problems.append(f"{split}: image {items.keys[place]} has changed since it was encoded")
    known_keys = set(items.keys)
    if spec.val_fraction is not None and split == "val" and _keys(cache_dir, "train"):
        return problems  # what is new in the images that both were parted from is said of train
    if spec.val_fraction is not None and split == "train":
        known_keys |= _keys(cache_dir, "val")
    new = [key for key in pool.keys if key not in known_keys]
    return problems + [f"{split}: image {key} of {data_dir} is not in the cache" for key in new]


def _keys(cache_dir: AnyPath, split: str) -> set[str]:
    split_dir = cache_dir / split
    return set(read_item_list(split_dir, read_seals(split_dir)).keys) if has_item_list(split_dir) else set()


def _hashes(pool: ImageSplit, indices: Sequence[int], split: str) -> Iterator[str]:
    def read(index: int) -> str:
        try:
            return hash_content(pool.read_bytes(index))
        except OSError:
            return _GONE

    with (
        ThreadPoolExecutor(_READING_THREADS, thread_name_prefix="ci2p-check") as threads,
        progress(f"check {split}", len(indices), "images") as advance,
    ):
        for found in threads.map(read, indices):
            advance(1)
            yield found
