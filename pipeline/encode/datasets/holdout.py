"""The validation set that is held out of a data set without one."""

import hashlib

import numpy as np

from ci2p_cache.errors import InputError
from pipeline.encode.datasets.split import SourceSplit


def check_fraction(val_fraction: float) -> None:
    """Raises InputError unless the fraction lies between 0 and 1."""
    if not 0 < val_fraction < 1:
        raise InputError(f"--val-fraction {val_fraction}: give a number between 0 and 1, such as 0.1")


def hold_out(split: SourceSplit, fraction: float, seed: int) -> dict[str, SourceSplit]:
    """Part a split into "train" and "val": the same fraction of every class, never all of it, nearly never none.

    A pure function of (keys, seed): the items of a class are ranked by a hash of seed and key, and the first go to val.
    So it depends on no library's random stream, and one image more or less moves one image at the border. A class of
    one image stays in train. Raises InputError when val would be empty.
    """
    is_val = np.zeros(len(split.labels), dtype=bool)
    ranks = np.array([_rank(seed, key) for key in split.keys], dtype=np.uint64)
    for label in np.unique(split.labels):
        members = np.flatnonzero(split.labels == label)
        num_val = min(max(round(len(members) * fraction), 1), len(members) - 1)
        is_val[members[np.argsort(ranks[members], kind="stable")[:num_val]]] = True
    if not is_val.any():
        raise InputError(
            f"--val-fraction {fraction}: no class has two images, so none can be held out; add images to every class"
        )
    return {"train": split.subset(np.flatnonzero(~is_val)), "val": split.subset(np.flatnonzero(is_val))}


def _rank(seed: int, key: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(f"{seed}\0{key}".encode("utf-8", "backslashreplace"), digest_size=8).digest(), "big"
    )
