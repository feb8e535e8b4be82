"""A million strings in one block of memory."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray


class PackedStrings(Sequence[str]):
    """An unchanging list of strings kept as one block of UTF-8: a sixth of a list's memory, and quick to pickle.

    Equal to any sequence of the same strings in the same order. File names that are not UTF-8 survive the round trip.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [string.encode("utf-8", "surrogateescape") for string in strings]
        self._block = b"".join(encoded)
        self._bounds: NDArray[np.int64] = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    @classmethod
    def from_block(cls, block: bytes, bounds: NDArray[np.int64]) -> "PackedStrings":
        """The strings block[bounds[i]:bounds[i + 1]]; `bounds` is int64 [N + 1], ascending from 0 to len(block)."""
        packed = cls(())
        packed._block, packed._bounds = block, bounds
        return packed

    @property
    def block(self) -> bytes:
        """All of them, one after another, as UTF-8."""
        return self._block

    @property
    def bounds(self) -> NDArray[np.int64]:
        """Where each begins in the block, int64 [N + 1]; the last is its length."""
        return self._bounds

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "PackedStrings": ...
    def __getitem__(self, index: int | slice) -> "str | PackedStrings":
        if isinstance(index, slice):
            return PackedStrings(self[i] for i in range(*index.indices(len(self))))
        i = range(len(self))[index]
        return self._block[self._bounds[i] : self._bounds[i + 1]].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for begin, end in itertools.pairwise(self._bounds.tolist()):
            yield self._block[begin:end].decode("utf-8", "surrogateescape")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PackedStrings({len(self)})"
