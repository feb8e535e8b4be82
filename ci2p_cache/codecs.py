"""Latents <-> stored values <-> bytes. A view is one self-delimiting buffer in either format.

    latents y  --(int store: round(y / step))-->  integers  --zig-zag-->  uint8  --Blosc-->  bytes
    latents y  --(float16 store)-->  float16  -->  bytes, as they are

Zig-zag (0, -1, 1, -2, ... -> 0, 1, 2, 3, ...) leaves the high bit planes empty, which is what Blosc's bit-shuffle
then compresses away. Rounding is lossless from there on: an integer that does not fit is an error, never clipped.
"""

import math
from typing import Literal

import numpy as np
from numcodecs import Blosc, blosc
from numpy.typing import NDArray

from ci2p_cache.errors import InputError, WorkError

# Threads inside Blosc would make its output depend on their number, and our threads already share the views out.
blosc.use_threads = False

# One view a buffer: on real latents 1.5 % larger than 16 views a buffer, and any view is read by itself.
_BLOSC = Blosc(cname="zstd", clevel=5, shuffle=Blosc.BITSHUFFLE)

Store = Literal["int", "float16"]
INT_LIMIT = 127


def stored_dtype(store: Store) -> np.dtype[np.generic]:
    """The dtype of a stored view: zig-zag uint8, or float16."""
    return np.dtype(np.uint8 if store == "int" else np.float16)


def check_step(store: Store, step: float | None) -> None:
    """Raises InputError unless the step is a positive number for the integer store."""
    if store == "int" and (step is None or not math.isfinite(step) or step <= 0):
        raise InputError(f"--step is {step}: the integer store needs a positive quantisation step, such as 1.0")


def quantise(latents: NDArray[np.float32], store: Store, step: float | None) -> NDArray[np.generic]:
    """Latents float32 [...] -> stored values of the same shape: zig-zag uint8, or float16.

    Rounds half to even, as torch.round and the codec itself do. Raises WorkError for a value that is not finite or
    that does not fit; nothing is clipped.
    """
    if not np.isfinite(latents).all():
        raise WorkError("the encoder gave a value that is not finite; check its weights, or use --precision float32")
    if store == "float16":
        with np.errstate(over="ignore"):
            halves = latents.astype(np.float16)
        if not np.isfinite(halves).all():
            raise WorkError(f"a latent of {np.abs(latents).max():.0f} does not fit in float16; use --store int")
        return halves
    assert step is not None
    integers = np.rint(latents / np.float32(step))
    largest = float(np.abs(integers).max(initial=0))
    if largest > INT_LIMIT:
        raise WorkError(
            f"a latent of {largest * step:.1f} is {largest:.0f} steps of {step}, and a stored integer holds "
            f"{INT_LIMIT} at most; use --step {largest * step / INT_LIMIT:.2g} or more, or --store float16"
        )
    return zigzag(integers.astype(np.int8))


def dequantise(stored: NDArray[np.generic], store: Store, step: float | None) -> NDArray[np.float32]:
    """Stored values -> latents float32 of the same shape: multiples of the step, or the float16 values."""
    if store == "float16":
        return stored.astype(np.float32)
    assert step is not None
    return unzigzag(stored.astype(np.uint8)).astype(np.float32) * np.float32(step)


def zigzag(integers: NDArray[np.int8]) -> NDArray[np.uint8]:
    """0, -1, 1, -2, 2, ... -> 0, 1, 2, 3, 4, ...; a bijection from int8 to uint8."""
    return ((integers << 1) ^ (integers >> 7)).view(np.uint8)


def unzigzag(codes: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The inverse of `zigzag`."""
    return ((codes >> 1) ^ (np.uint8(0) - (codes & 1))).view(np.int8)


def pack(view: NDArray[np.generic], store: Store) -> bytes:
    """One stored view [C, H, W] -> its buffer; equal values give equal bytes."""
    view = np.ascontiguousarray(view)
    return view.tobytes() if store == "float16" else bytes(_BLOSC.encode(view))


def unpack(buffer: memoryview, out: NDArray[np.generic], store: Store) -> None:
    """Decodes a buffer of `pack` straight into `out` [C, H, W], C-contiguous; releases the GIL while it does.

    Raises WorkError when the buffer is damaged.
    """
    if store == "float16":
        if len(buffer) != out.nbytes:
            raise WorkError(f"a stored view has {len(buffer)} bytes instead of {out.nbytes}; run `ci2p verify`")
        out.reshape(-1).view(np.uint8)[:] = np.frombuffer(buffer, np.uint8)
        return
    try:
        _BLOSC.decode(buffer, out)
    except (RuntimeError, ValueError) as error:
        raise WorkError(f"a stored view cannot be decompressed ({error}); run `ci2p verify`") from error
