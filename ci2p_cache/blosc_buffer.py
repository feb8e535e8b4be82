"""Blosc buffers from anywhere -> bytes: what a header says is held against the buffer before C code believes it.

    0   version, version of zstd's format, flags, bytes a value          1 byte each
    4   decoded bytes, bytes a block, bytes of the buffer                uint32 each, little-endian
    16  where each block begins, uint32 each                             none of these in a buffer that is only copied
    ... a block: one part, or one for each byte of a value; a part: how long, uint32, then that many bytes

c-blosc 1.21 reads and writes where sizes and beginnings point to, and takes a buffer for decoded that gave too little.
"""

import struct

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from ci2p_cache.errors import WorkError

HEADER_BYTES = 16
_HEADER = struct.Struct("<4B3I")
_LENGTH = struct.Struct("<I")
_VERSIONS = (2, 1)
_COPIED, _NOT_SPLIT = 0x02, 0x10
_SHUFFLES = {blosc.SHUFFLE: 0x01, blosc.BITSHUFFLE: 0x04}
_ZSTD = 4 << 5
_LEAST_SPLIT = 128  # values of a block: with fewer it is of one part
_RUN_VERIFY = "run `ci2p verify`"


def buffer_bytes(buffer: memoryview) -> int:
    """How long the buffer at the front says it is. Raises WorkError where there is no room for a header."""
    if len(buffer) < HEADER_BYTES:
        raise WorkError(f"a compressed buffer has {len(buffer)} bytes, its header alone {HEADER_BYTES}; {_RUN_VERIFY}")
    return int(_LENGTH.unpack_from(buffer, HEADER_BYTES - 4)[0])


def decode(buffer: memoryview, out: NDArray[np.generic], shuffle: int) -> None:
    """Decodes into `out`, C-contiguous, a buffer that zstd made of an array of its dtype and size behind `shuffle`.

    Raises WorkError when the buffer is not of this kind, does not fill `out` exactly, or is damaged.
    """
    _check(buffer, out.nbytes, out.itemsize, _SHUFFLES[shuffle])
    try:
        blosc.decompress(buffer, out)
    except (RuntimeError, ValueError, SystemError) as error:
        raise WorkError(f"a stored buffer cannot be decompressed ({error}); {_RUN_VERIFY}") from error


def _check(buffer: memoryview, num_bytes: int, value_bytes: int, shuffle_flag: int) -> None:
    said = buffer_bytes(buffer)
    version, zstd_version, flags, said_value_bytes, said_bytes, block_bytes, _ = _HEADER.unpack_from(buffer)
    if said != len(buffer):
        raise _damaged("bytes of the buffer", said, len(buffer))
    if (version, zstd_version) != _VERSIONS:
        raise _damaged("version", (version, zstd_version), _VERSIONS)
    if said_bytes != num_bytes:
        raise _damaged("decoded bytes", said_bytes, num_bytes)
    if said_value_bytes != value_bytes:
        raise _damaged("bytes a value", said_value_bytes, value_bytes)
    if flags & ~(_COPIED | _NOT_SPLIT) != _ZSTD | shuffle_flag:
        raise _damaged("flags", f"{flags:#04x}", f"{_ZSTD | shuffle_flag:#04x} for zstd and its shuffle")
    if flags & _COPIED:
        if len(buffer) != HEADER_BYTES + num_bytes:
            raise _damaged("bytes of a copied buffer", len(buffer), HEADER_BYTES + num_bytes)
        return
    if not 0 < block_bytes <= num_bytes:
        raise _damaged("bytes a block", block_bytes, f"1 to {num_bytes}")
    num_blocks = -(-num_bytes // block_bytes)
    blocks_begin = HEADER_BYTES + 4 * num_blocks
    if blocks_begin > len(buffer):
        raise _damaged("blocks", num_blocks, f"those that {len(buffer)} bytes have room for")
    splits = value_bytes > 1 and not flags & _NOT_SPLIT and block_bytes // value_bytes >= _LEAST_SPLIT
    for number, begin in enumerate(struct.unpack_from(f"<{num_blocks}I", buffer, HEADER_BYTES)):
        if begin < blocks_begin:
            raise _damaged(f"beginning of block {number}", begin, f"at least {blocks_begin}")
        decoded = min(block_bytes, num_bytes - number * block_bytes)
        num_parts = value_bytes if splits and decoded == block_bytes else 1
        _check_block(buffer, number, begin, num_parts, decoded // num_parts)


def _check_block(buffer: memoryview, number: int, begin: int, num_parts: int, decoded: int) -> None:
    """Whether every part lies within the buffer, and is not longer than the `decoded` bytes that it gives."""
    for _ in range(num_parts):
        if begin + 4 > len(buffer):
            raise _damaged(f"beginning of block {number}", begin, f"at most {len(buffer) - 4}")
        length = _LENGTH.unpack_from(buffer, begin)[0]
        begin += 4
        most = min(decoded, len(buffer) - begin)
        if not 0 < length <= most:
            raise _damaged(f"length of block {number}", length, f"1 to {most}")
        begin += length


def _damaged(what: str, said: object, expected: object) -> WorkError:
    return WorkError(
        f"a stored buffer is damaged: its header says {what} = {said} instead of {expected}; {_RUN_VERIFY}"
    )
