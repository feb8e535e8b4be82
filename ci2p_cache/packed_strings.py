"""A hundred million strings in one block of bytes, in memory or in a file that is mapped."""

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.scratch import GrowingBytes, scratch_array

_AT_ONCE = 1 << 16  # strings
_VALUES_AT_ONCE = 1 << 22
_SORTED_AT_ONCE = 1 << 19  # strings that a sort has in a list


class PackedStrings(Sequence[str]):
    """An unchanging list of strings kept as one block of UTF-8: a sixth of a list's memory, and quick to pickle.

    Equal to any sequence of the same strings in the same order. File names that are not UTF-8 survive the round trip.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = (each.encode("utf-8", "surrogateescape") for each in strings)
        chunks = iter(lambda: [*itertools.islice(encoded, _AT_ONCE)], [])
        self._pack((b"".join(chunk), np.fromiter(map(len, chunk), np.int64, len(chunk))) for chunk in chunks)

    def _pack(self, parts: Iterable[tuple[bytes, NDArray[np.int64]]]) -> None:
        """Of strings one after another, and the length of each."""
        block, bounds, end = GrowingBytes(), GrowingBytes(), 0
        bounds.add(bytes(8))
        for part, lengths in parts:
            block.add(part)
            bounds.add((end + np.cumsum(lengths)).tobytes())
            end += len(part)
        self._block: bytes | memoryview = block.whole()
        self._bounds: NDArray[np.int64] = np.frombuffer(bounds.whole(), np.int64)

    @classmethod
    def from_block(cls, block: bytes | memoryview, bounds: NDArray[np.int64]) -> "PackedStrings":
        """The strings block[bounds[i]:bounds[i + 1]]; `bounds` is int64 [N + 1], ascending from 0 to len(block)."""
        packed = cls.__new__(cls)
        packed._block, packed._bounds = block, bounds
        return packed

    @property
    def block(self) -> bytes | memoryview:
        """All of them, one after another, as UTF-8."""
        return self._block

    @property
    def bounds(self) -> NDArray[np.int64]:
        """Where each begins in the block, int64 [N + 1]; the last is its length."""
        return self._bounds

    def chunks(self) -> Iterator[list[bytes]]:
        """All of them as UTF-8, in order, some thousands at a time."""
        for first in range(0, len(self), _AT_ONCE):
            bounds = self._bounds[first : first + _AT_ONCE + 1]
            block = bytes(self._block[bounds[0] : bounds[-1]])
            yield [block[begin:end] for begin, end in itertools.pairwise((bounds - bounds[0]).tolist())]

    def take(self, indices: NDArray[np.int64]) -> "PackedStrings":
        """Those at [n] indices, in that order."""
        packed = PackedStrings.__new__(PackedStrings)
        packed._pack(self._taken(indices[first : first + _AT_ONCE]) for first in range(0, len(indices), _AT_ONCE))
        return packed

    def order(self) -> NDArray[np.int64]:
        """The indices that sort them, by code points, int64 [N]; equal ones keep their order. Never all in a list."""
        order: NDArray[np.int64] = scratch_array((len(self),), np.int64)
        if self.is_ascending():
            for first in range(0, len(self), _VALUES_AT_ONCE):
                order[first : first + _VALUES_AT_ONCE] = np.arange(first, min(first + _VALUES_AT_ONCE, len(self)))
            return order
        # Into buckets of about one size, by the strings that would part a sample of them.
        num_buckets = min(-(-len(self) // _SORTED_AT_ONCE), 1 << 15)
        sample = sorted(self._encoded(np.linspace(0, len(self) - 1, 64 * num_buckets).astype(np.int64)))
        splitters = sample[64::64] if num_buckets > 1 else []
        bucket = scratch_array((len(self),), np.uint16)
        begin = 0
        for chunk in self.chunks():
            bucket[begin : begin + len(chunk)] = [bisect_right(splitters, each) for each in chunk]
            begin += len(chunk)
        begin = 0
        for number in range(num_buckets):
            indices = np.flatnonzero(bucket == number)
            strings = self._encoded(indices)
            by_string = sorted(range(len(strings)), key=strings.__getitem__)
            order[begin : begin + len(indices)] = indices[by_string]
            begin += len(indices)
        return order

    def is_ascending(self) -> bool:
        """Whether each is at least the one before it, by code points."""
        last = b""
        for chunk in self.chunks():
            if last > chunk[0] or any(map(bytes.__gt__, chunk, chunk[1:])):
                return False
            last = chunk[-1]
        return True

    def first_repeated(self) -> int | None:
        """The first index whose string is the one before it; None where there is none."""
        last, first = None, 0
        for chunk in self.chunks():
            if chunk[0] == last:
                return first
            if any(map(bytes.__eq__, chunk, chunk[1:])):
                return first + next(place for place in range(1, len(chunk)) if chunk[place] == chunk[place - 1])
            last, first = chunk[-1], first + len(chunk)
        return None

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "PackedStrings": ...
    def __getitem__(self, index: int | slice) -> "str | PackedStrings":
        if isinstance(index, slice):
            return self.take(np.arange(*index.indices(len(self))))
        i = range(len(self))[index]
        return str(self._block[self._bounds[i] : self._bounds[i + 1]], "utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for chunk in self.chunks():
            for each in chunk:
                yield each.decode("utf-8", "surrogateescape")

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedStrings.from_block, (bytes(self._block), np.array(self._bounds))  # mapped ones cannot be pickled

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackedStrings):
            return _are_equal(self._bounds, other._bounds) and _are_equal(
                np.frombuffer(self._block, np.uint8), np.frombuffer(other._block, np.uint8)
            )
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PackedStrings({len(self)})"

    def _taken(self, indices: NDArray[np.int64]) -> tuple[bytes, NDArray[np.int64]]:
        begins = self._bounds[indices]
        lengths = self._bounds[indices + 1] - begins
        ends = np.cumsum(lengths)
        places = np.repeat(begins - ends + lengths, lengths) + np.arange(ends[-1])
        return np.frombuffer(self._block, np.uint8)[places].tobytes(), lengths

    def _encoded(self, indices: NDArray[np.int64]) -> list[bytes]:
        begins, ends = self._bounds[indices].tolist(), self._bounds[indices + 1].tolist()
        return [bytes(self._block[begin:end]) for begin, end in zip(begins, ends, strict=True)]


def _are_equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Without a copy of their length."""
    steps = range(0, len(one), _VALUES_AT_ONCE)
    return len(one) == len(other) and all(
        np.array_equal(one[begin : begin + _VALUES_AT_ONCE], other[begin : begin + _VALUES_AT_ONCE]) for begin in steps
    )
