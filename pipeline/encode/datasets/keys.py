"""Names of items: unique within a split, the same on every machine, a million of them in one block of memory."""

import itertools
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.errors import InputError

# What would break a line, move the cursor of a terminal or turn the direction of writing; and bytes that are not UTF-8,
# which Python holds as lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


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


def printable(name: str) -> str:
    """A name as one line of UTF-8, for keys, classes and messages: "caf\\xe9" for Latin-1, "a\\nb" for two lines."""
    return _UNPRINTABLE.sub(_escaped, name)


def item_keys(file_names: Sequence[str]) -> list[str]:
    """A key for each file: its relative posix name without extension, printable.

    Where that gives two files one key (a.jpg beside a.png) all of them keep the extension. Raises InputError, naming
    them, when two files have the same name, as a tar may have it, or names that are the same once they are printable.
    """
    names = [printable(name) for name in file_names]
    if len(set(names)) < len(names):
        name, count = Counter(names).most_common(1)[0]
        raise InputError(f"--data-dir: {count} images have the name {name}; rename or remove all but one")
    keys = [posixpath.splitext(name)[0] for name in names]
    while len(set(keys)) < len(keys):  # a.jpg, a.png and a.jpg.gif take two turns
        count_of = Counter(keys)
        keys = [name if count_of[key] > 1 else key for name, key in zip(names, keys, strict=True)]
    return keys


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    is_byte = 0xDC80 <= code <= 0xDCFF
    return f"\\x{code - 0xDC00:02x}" if is_byte else found[0].encode("unicode_escape").decode("ascii")
