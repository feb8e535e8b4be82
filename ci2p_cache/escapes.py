"""Integers that a stored byte does not hold: kept in their shard's marker, put back by whoever makes latents.

    integers  --codecs.zigzag-->  uint8, ESCAPE where beyond +-127  -->  the shard's file
        `--those beyond-->  (place, view, index, integer)           -->  the shard's marker

A cache that has none, as at step 1 almost all have, pays nothing for them.

Legend: E escapes, B views of a batch, V views of an image, C, H, W of a latent.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.codecs import Escaped

Escape = tuple[int, int, int, int]  # place in the shard, view, index into the flattened [C, H, W], integer


@dataclass(frozen=True)
class Escapes:
    """Those of a split, sorted by the view they lie in."""

    rows: NDArray[np.int64]  # [E] position * V + view, ascending
    indices: NDArray[np.int64]  # [E] into the flattened [C, H, W]
    integers: NDArray[np.int32]  # [E]
    view_values: int  # C * H * W

    def among(self, rows: NDArray[np.int64]) -> Escaped:
        """Those in B views given by row, int64 [B]: where in the flattened [B, C, H, W], and the integers there."""
        begins = np.searchsorted(self.rows, rows, "left")
        counts = np.searchsorted(self.rows, rows, "right") - begins
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        found = np.repeat(begins, counts) + within
        views = np.repeat(np.arange(len(rows)), counts)
        return views * self.view_values + self.indices[found], self.integers[found]


def collect_escapes(shards: Iterable[tuple[int, Sequence[Escape]]], num_views: int, view_values: int) -> Escapes:
    """Those of a split from each shard's (first position, escapes), the shards in order."""
    parts = []
    for first, listed in shards:
        escapes = np.array(listed, dtype=np.int64).reshape(-1, 4)
        escapes[:, 0] = (first + escapes[:, 0]) * num_views + escapes[:, 1]
        parts.append(escapes[np.argsort(escapes[:, 0], kind="stable")])
    rows, _, indices, integers = np.concatenate(parts).T
    return Escapes(rows.copy(), indices.copy(), integers.astype(np.int32), view_values)
