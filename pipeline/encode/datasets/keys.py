"""Names of items: unique within a split, the same on every machine, a million of them in one block of memory."""

import itertools
import posixpath
from collections import Counter
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
        self._ends: NDArray[np.int64] = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "PackedStrings": ...
    def __getitem__(self, index: int | slice) -> "str | PackedStrings":
        if isinstance(index, slice):
            return PackedStrings(self[i] for i in range(*index.indices(len(self))))
        i = range(len(self))[index]
        return self._block[self._ends[i] : self._ends[i + 1]].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        ends = self._ends.tolist()
        for begin, end in itertools.pairwise(ends):
            yield self._block[begin:end].decode("utf-8", "surrogateescape")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PackedStrings({len(self)})"


def item_keys(file_names: Sequence[str]) -> list[str]:
    """A key for each file: its relative posix name without extension.

    Where that gives two files one key (a.jpg beside a.png) all of them keep the extension. `file_names` must be unique.
    """
    names = [name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name in file_names]
    keys = [posixpath.splitext(name)[0] for name in names]
    while len(set(keys)) < len(keys):  # a.jpg, a.png and a.jpg.gif take two turns
        count = Counter(keys)
        repaired = [name if count[key] > 1 else key for name, key in zip(names, keys, strict=True)]
        assert repaired != keys, "two items have the same file name"
        keys = repaired
    return keys
