"""Room for what may be too large for memory: files without a name, mapped, gone with whoever uses them.

They lie where temporary files do (TMPDIR), and their pages may leave memory when others need it.
"""

import math
import mmap
import tempfile
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

LARGE_BYTES = 64 << 20  # what is larger lies in a file
_VALUES_AT_ONCE = 1 << 20


def scratch_array(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An array of zeros to be filled."""
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if num_bytes <= LARGE_BYTES:
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile(prefix="ci2p-") as file:
        file.truncate(num_bytes)
        return np.frombuffer(mmap.mmap(file.fileno(), num_bytes), dtype).reshape(shape)


def taken(values: NDArray[Any], indices: NDArray[np.int64], dtype: DTypeLike) -> NDArray[Any]:
    """values[indices] as another type, of [N] and [n]."""
    found = scratch_array(indices.shape, dtype)
    for begin in range(0, len(indices), _VALUES_AT_ONCE):
        found[begin : begin + _VALUES_AT_ONCE] = values[indices[begin : begin + _VALUES_AT_ONCE]]
    return found


class GrowingBytes:
    """Bytes that come one part after another, nobody knows how many."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._file: IO[bytes] | None = None
        self._length = 0

    def add(self, part: bytes) -> None:
        self._length += len(part)
        self._parts.append(part)
        if self._file is None and self._length > LARGE_BYTES:
            self._file = tempfile.TemporaryFile(prefix="ci2p-")  # noqa: SIM115
        if self._file is not None:
            self._file.writelines(self._parts)
            self._parts.clear()

    def whole(self) -> bytes | memoryview:
        """All of them. Nothing can be added any more."""
        if self._file is None:
            return b"".join(self._parts)
        with self._file as file:
            file.flush()
            return memoryview(mmap.mmap(file.fileno(), self._length, access=mmap.ACCESS_READ))
