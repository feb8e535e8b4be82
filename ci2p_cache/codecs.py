"""Latents <-> stored values <-> bytes. A view is one self-delimiting buffer in either format.

    latents y  --(int store: round(y / step))-->  integers  --zig-zag-->  uint8  --Blosc-->  bytes
    latents y  --(rans store)-->  the same uint8, coded again once their shard is whole: see `rans`
    latents y  --(float16 store)-->  float16  -->  bytes, as they are

Zig-zag (0, -1, 1, -2, ... -> 0, 1, 2, 3, ...) leaves the high bit planes empty, which is what Blosc's bit-shuffle
then compresses away. Rounding is lossless from there on: an integer beyond +-127 is stored as ESCAPE and kept in its
shard's marker (see `escapes`); nothing is clipped.
"""

import math
from typing import Any, Literal

import numpy as np
from numcodecs import Blosc, blosc
from numpy.typing import NDArray

from ci2p_cache import blosc_buffer
from ci2p_cache.errors import InputError, WorkError

# Threads inside Blosc would make its output depend on their number, and our threads already share the views out.
blosc.use_threads = False

# One view a buffer: on real latents 1.5 % larger than 16 views a buffer, and any view is read by itself.
_BLOSC = Blosc(cname="zstd", clevel=5, shuffle=Blosc.BITSHUFFLE)

Store = Literal["int", "rans", "float16"]
Escaped = tuple[NDArray[np.int64], NDArray[np.int32]]  # where in flattened values, [E], and the integers there, [E]
INT_LIMIT = 127  # of what a stored byte holds
ESCAPE = 255  # the stored byte of all beyond; no integer within the limit has it
ESCAPED_LIMIT = 2**31 - 1  # of an escape


def stored_dtype(store: Store) -> np.dtype[np.generic]:
    """The dtype of a stored view: zig-zag uint8, or float16."""
    return np.dtype(np.float16 if store == "float16" else np.uint8)


def check_step(store: Store, step: float | None) -> None:
    """Raises InputError unless the step is a positive number for a store of integers."""
    if store != "float16" and (step is None or not math.isfinite(step) or step <= 0):
        raise InputError(f"--step is {step}: the {store} store needs a positive quantisation step, such as 1.0")


def quantise(latents: NDArray[np.float32], store: Store, step: float | None) -> NDArray[np.generic]:
    """Latents float32 [...] -> what the store keeps of them, of the same shape: integers int32, or float16.

    Rounds half to even, as torch.round and the codec itself do. Raises WorkError for a value that is not finite or
    that does not fit; nothing is clipped.
    """
    low, high = latents.min(initial=0), latents.max(initial=0)
    stored_range(low, high, store, step)
    if store == "float16":
        return latents.astype(np.float16)
    integers: NDArray[np.int32] = np.rint(latents / np.float32(step)).astype(np.int32)
    return integers


def stored_range(low: np.float32, high: np.float32, store: Store, step: float | None) -> tuple[float, float]:
    """The range of latents once they are stored, from what it was: rounding keeps their order. Raises as `quantise`."""
    exact = np.array([low, high], np.float32)
    if not np.isfinite(exact).all():
        raise WorkError("the encoder gave a value that is not finite; check its weights, or use --precision float32")
    if store == "float16":
        with np.errstate(over="ignore"):
            halves = exact.astype(np.float16)
        if not np.isfinite(halves).all():
            raise WorkError(f"a latent of {np.abs(exact).max():.0f} does not fit in float16; use --store int")
        return float(halves[0]), float(halves[1])
    assert step is not None
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        integers = np.rint(exact / np.float32(step))
    if not np.abs(integers).max() <= ESCAPED_LIMIT:  # by a step of almost zero it may also be infinite, or 0 / 0
        raise WorkError(
            f"a latent of {np.abs(exact).max():.4g} is more than {ESCAPED_LIMIT} steps of {step}, and no more are "
            "stored; use a larger --step (the codec's own is 1.0), or --store float16"
        )
    least, largest = integers.astype(np.int32).astype(np.float32) * np.float32(step)
    return float(least), float(largest)


def dequantise(
    values: NDArray[np.generic], store: Store, step: float | None, escaped: Escaped | None = None
) -> NDArray[np.float32]:
    """What `quantise` gave, or stored values as they are read -> latents float32 of the same shape.

    `escaped` is what the values 255 of zig-zag uint8 stand for, as `Escapes.among` gives it. Raises WorkError unless
    there are as many.
    """
    if store == "float16":
        return values.astype(np.float32)
    assert step is not None
    if values.dtype != np.uint8:
        return values.astype(np.float32) * np.float32(step)
    found, listed = np.count_nonzero(values == ESCAPE), 0 if escaped is None else len(escaped[0])
    if found != listed:
        raise WorkError(
            f"{found} stored values are {ESCAPE}, which stands for an integer beyond {INT_LIMIT}, and {listed} such "
            "integers are given; the markers list them as `escapes`"
        )
    latents = unzigzag(values.view(np.uint8)).astype(np.float32)
    if escaped is not None:
        latents.reshape(-1)[escaped[0]] = escaped[1]
    return latents * np.float32(step)


def zigzag(integers: NDArray[np.signedinteger[Any]]) -> NDArray[np.uint8]:
    """0, -1, 1, -2, 2, ... -> 0, 1, 2, 3, 4, ... up to +-127; ESCAPE for all beyond."""
    wide = integers.astype(np.int32)
    codes = np.where(np.abs(wide) <= INT_LIMIT, (wide << 1) ^ (wide >> 31), ESCAPE)
    return codes.astype(np.uint8)


def unzigzag(codes: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The inverse of `zigzag`; -128 for ESCAPE."""
    return ((codes >> 1) ^ (np.uint8(0) - (codes & 1))).view(np.int8)


def pack(view: NDArray[np.generic], store: Store) -> bytes:
    """One stored view [C, H, W] -> its buffer; equal values give equal bytes. For rans, those of int."""
    view = np.ascontiguousarray(view)
    return view.tobytes() if store == "float16" else bytes(_BLOSC.encode(view))


def unpack(buffer: memoryview, out: NDArray[np.generic], store: Store) -> None:
    """Decodes a buffer of `pack` straight into `out` [C, H, W], C-contiguous; releases the GIL while it does.

    Raises WorkError when the buffer is damaged or would not fill `out` exactly.
    """
    if store == "float16":
        if len(buffer) != out.nbytes:
            raise WorkError(f"a stored view has {len(buffer)} bytes instead of {out.nbytes}; run `ci2p verify`")
        out.reshape(-1).view(np.uint8)[:] = np.frombuffer(buffer, np.uint8)
        return
    blosc_buffer.decode(buffer, out, Blosc.BITSHUFFLE)
