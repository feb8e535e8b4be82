"""The labels of a split, mapped: each shard's part of them is held against its checksum when it is first read.

SPLIT/labels.npy    int32 [N], the class of each position; -1 where the image failed
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.checksums import crc32c
from ci2p_cache.errors import WorkError
from ci2p_cache.marker import NO_LABEL
from ci2p_cache.plan import shard_positions
from ci2p_cache.printable import counted
from ci2p_cache.shard_table import ShardTable

LABELS = "labels.npy"


class StoredLabels:
    """The labels of N positions in S shards."""

    def __init__(self, values: NDArray[np.int32], table: ShardTable, shard_size: int, num_classes: int, where: str):
        """`where` they are from, for messages."""
        self._values = values
        self._table = table
        self._shard_size = shard_size
        self._num_classes = num_classes
        self._where = where
        self._checked = np.zeros(len(table), bool)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoredLabels) and np.array_equal(self.whole(), other.whole())

    __hash__ = None  # type: ignore[assignment]

    def at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [n] of [n] positions. Raises WorkError when these have changed since they were written."""
        shards = positions // self._shard_size
        if not self._checked[shards].all():
            for shard in np.unique(shards).tolist():
                self._check(shard)
        return self._values[positions].astype(np.int64)

    def of_shard(self, shard: int) -> NDArray[np.int32]:
        """int32 [n] of the positions of a shard. Raises WorkError."""
        self._check(shard)
        return self._part(shard)

    def whole(self) -> NDArray[np.int32]:
        """int32 [N]. Raises WorkError."""
        for shard in np.flatnonzero(~self._checked).tolist():
            self._check(shard)
        return self._values

    def failed(self) -> NDArray[np.int64]:
        """[F] the positions whose images failed, ascending. Raises WorkError."""
        planned = np.full(len(self._table), self._shard_size)
        if len(planned):
            planned[-1] = len(self) - self._shard_size * (len(planned) - 1)
        short = np.flatnonzero(self._table.column("num_samples") != planned).tolist()
        found = [shard * self._shard_size + np.flatnonzero(self.of_shard(shard) < 0) for shard in short]
        return np.concatenate([np.empty(0, np.int64), *found])

    def complaint(self, shard: int) -> str | None:
        """What is wrong with a shard's labels; None where nothing is."""
        labels = self._part(shard)
        if self._table.has_markers and checksum_of(labels) != int(self._table.column("labels_crc32c")[shard]):
            return "have changed since they were written"
        if labels.max(initial=NO_LABEL) >= self._num_classes:
            return f"is {labels.max()}: of {counted(self._num_classes, 'class')}"
        if labels.min(initial=0) < NO_LABEL:
            return f"is {labels.min()}: none is below {NO_LABEL}"
        stored, known = int(np.count_nonzero(labels >= 0)), int(self._table.column("num_samples")[shard])
        return None if stored == known else f"of shard {shard} are of {stored} stored images instead of {known}"

    def _check(self, shard: int) -> None:
        if not self._checked[shard]:
            wrong = self.complaint(shard)
            if wrong is not None:
                raise WorkError(f"{self._where}: labels of shard {shard}: {wrong}; run `ci2p verify`")
            self._checked[shard] = True

    def _part(self, shard: int) -> NDArray[np.int32]:
        positions = shard_positions(shard, len(self), self._shard_size)
        return self._values[positions.start : positions.stop]


def checksum_of(labels: NDArray[Any]) -> int:
    """CRC-32C of labels as int32, little-endian."""
    return crc32c(np.ascontiguousarray(labels.astype("<i4", copy=False)).view(np.uint8))
