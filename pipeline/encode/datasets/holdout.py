"""The validation set that is held out of a data set without one."""

import hashlib

import numpy as np

from ci2p_cache.errors import InputError
from pipeline.encode.datasets.split import SourceSplit

DEFAULT_VAL_FRACTION = 0.1


def hold_out(split: SourceSplit, val_fraction: float | None, seed: int) -> dict[str, SourceSplit]:
    """Part a split into "train" and "val": the same fraction of every class, never all of it, nearly never none.

    A pure function of (keys, seed): the items of a class are ranked by a hash of seed and key, and the first go to val.
    So it depends on no library's random stream, and one image more or less moves one image at the border. A class of
    one image stays in train. Raises InputError when the fraction is not between 0 and 1, or val would be empty.
    """
    fraction = DEFAULT_VAL_FRACTION if val_fraction is None else val_fraction
    if not 0 < fraction < 1:
        raise InputError(f"--val-fraction {fraction}: give a number between 0 and 1, such as {DEFAULT_VAL_FRACTION}")
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


def refuse_fraction(val_fraction: float | None, because: str) -> None:
    """Raise InputError when `--val-fraction` is given to a data set that has its validation images already."""
    if val_fraction is not None:
        raise InputError(f"--val-fraction {val_fraction}: {because}; leave the option out")


def _rank(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest(), "big")
