"""Arrays of a split as .npy files: written in parts, read by mapping them, so that no process holds them.

A remote one is fetched whole. Every file has a seal (see `seals`); who maps one without hashing it has another way to
tell whether what it reads is as it was written.
"""

import io
import math
import mmap
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ci2p_cache.errors import WorkError
from ci2p_cache.remote import fetch
from ci2p_cache.seals import FileSeal, seal_of

Parts = Sequence[bytes | memoryview]  # of a file, one after another
_MOST_HEADER = 1 << 16  # bytes


def npy_parts(array: NDArray[Any]) -> Parts:
    """The .npy file of an array, little-endian: its header and its values, which are no copy."""
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(array.dtype)  # type: ignore[no-untyped-call]
    fields = {"descr": descr, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(header, fields)  # type: ignore[no-untyped-call]
    return header.getvalue(), array.reshape(-1).view(np.uint8).data


def map_array(
    split_dir: str | Any,
    name: str,
    dtype: DTypeLike,
    dimensions: int = 1,
    seal: FileSeal | None = None,
    *,
    hashed: bool = True,
) -> NDArray[Any]:
    """An array of a split by its file, read-only; of the length that its seal says and, if `hashed`, what it sealed.

    Raises WorkError for one that is missing, is no such array or is not what was sealed.
    """
    data = map_file(split_dir, name, seal, hashed=hashed)
    stream = io.BytesIO(data[:_MOST_HEADER])
    try:
        if np.lib.format.read_magic(stream) != (1, 0):  # type: ignore[no-untyped-call]
            raise ValueError("it is of another version of the format")
        shape, is_fortran, found = np.lib.format.read_array_header_1_0(stream)  # type: ignore[no-untyped-call]
    except (ValueError, SyntaxError, TypeError, RecursionError, TokenError) as error:
        reason = " ".join(str(error).split())[:80]
        raise WorkError(f"{split_dir}/{name} is damaged ({reason}); encode the split again") from error
    values = data[stream.tell() :]
    if found != dtype or len(shape) != dimensions or is_fortran or math.prod(shape) * found.itemsize != len(values):
        raise WorkError(f"{split_dir}/{name} is damaged: {found!s:.80} {shape}; encode the split again")
    array: NDArray[Any] = np.frombuffer(values, found).reshape(shape)
    return array


def map_file(split_dir: str | Any, name: str, seal: FileSeal | None, *, hashed: bool = True) -> memoryview:
    """The bytes of a file of a split. Raises WorkError as `map_array` does."""
    path = f"{split_dir}/{name}"
    if "://" in path:
        data = fetch(path, None if seal is None else seal.num_bytes)
    else:
        try:
            data = _map(path)
        except OSError as error:
            raise WorkError(f"{path} cannot be read ({error.strerror}); run `ci2p verify`") from error
    if seal is not None and (len(data) != seal.num_bytes or ((hashed or "://" in path) and seal_of(data) != seal)):
        raise WorkError(f"{path} has changed since it was written; run `ci2p verify`")
    return data


def _map(path: str | Path) -> memoryview:
    """A regular file's bytes. Raises OSError, also for a pipe and a device."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(22, "it is no regular file", str(path))
        if not status.st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
