"""Small TIFFs of any bits per sample, photometric and sample format: what scanners write and Pillow does not."""

import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

SHORT, LONG = 3, 4


def packed(values: ArrayLike, bits: int, order: str = "<") -> bytes:
    """Rows of samples of 1 to 64 bits, the first sample in the high bits; each row begins on a byte."""
    array = np.asarray(values)
    if bits in (8, 16, 32, 64):
        return array.astype(np.dtype(f"{array.dtype.kind}{bits // 8}").newbyteorder(order)).tobytes()
    rows = array.reshape(array.shape[0], -1, 1).astype(np.uint64)
    shifts = np.arange(bits - 1, -1, -1, dtype=np.uint64)
    return np.packbits((rows >> shifts & np.uint64(1)).astype(np.uint8).reshape(len(rows), -1), axis=1).tobytes()


def tiff(
    values: ArrayLike,
    bits: int,
    photometric: int = 1,
    sample_format: int = 1,
    *,
    order: str = "<",
    deflate: bool = False,
    planes: bool = False,
    extra: Sequence[int] = (),
    more: Mapping[int, tuple[int, Sequence[int]]] | None = None,
) -> bytes:
    """One strip (or one a plane) of values [H, W] or [H, W, samples]; `more` is tag -> (type, values)."""
    array = np.asarray(values)
    height, width = array.shape[:2]
    samples = 1 if array.ndim == 2 else array.shape[2]
    parts = [array[..., plane] for plane in range(samples)] if planes else [array]
    strips = [packed(part, bits, order) for part in parts]
    if deflate:
        strips = [zlib.compress(strip) for strip in strips]
    offsets = [8 + sum(len(strip) for strip in strips[:number]) for number in range(len(strips))]
    tags: dict[int, tuple[int, Sequence[int]]] = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [bits] * samples),
        259: (SHORT, [8 if deflate else 1]),
        262: (SHORT, [photometric]),
        273: (LONG, offsets),
        277: (SHORT, [samples]),
        278: (LONG, [height]),
        279: (LONG, [len(strip) for strip in strips]),
        284: (SHORT, [2 if planes else 1]),
        339: (SHORT, [sample_format] * samples),
        **({338: (SHORT, extra)} if extra else {}),
        **(more or {}),
    }
    body = b"".join(strips)
    body += b"\0" * (len(body) % 2)
    directory_at = 8 + len(body)
    heap_at = directory_at + 2 + 12 * len(tags) + 4
    directory, heap = struct.pack(order + "H", len(tags)), b""
    for tag, (kind, numbers) in sorted(tags.items()):
        data = struct.pack(order + {1: "B", SHORT: "H", LONG: "L"}[kind] * len(numbers), *numbers)
        if len(data) > 4:
            data, heap = struct.pack(order + "L", heap_at + len(heap)), heap + data
        directory += struct.pack(order + "HHL", tag, kind, len(numbers)) + data.ljust(4, b"\0")
    magic = (b"II" if order == "<" else b"MM") + struct.pack(order + "HL", 42, directory_at)
    return magic + body + directory + bytes(4) + heap
