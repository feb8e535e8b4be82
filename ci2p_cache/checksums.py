"""CRC-32C, zarr's own: what tells a damaged view when it is read, and one shard's file from another's.

a buffer  -->  its CRC-32C; behind it in a zarr, in record and marker of a tar
every CRC-32C of a shard, its keys, labels and tables  -->  BLAKE2b-128, the id: in the shard's file and its record
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import google_crc32c
import numpy as np
from numpy.typing import NDArray

CHECKSUM_BYTES = 4
ID_BYTES = 16
Data = bytes | memoryview | NDArray[np.uint8]
_RESIDUE = 0x48674BC7  # the CRC-32C of any data with their own behind it, little-endian


@dataclass(frozen=True)
class PackedShard:
    """What one shard's file is made of; the lists have an entry per planned position, in order."""

    keys: Sequence[str]
    labels: Sequence[int]
    rows: Sequence[Sequence[bytes] | None]  # the views' buffers; None where the image failed
    tables: bytes = b""  # of a rans store

    @cached_property
    def checksums(self) -> list[list[int]]:
        """CRC-32C of every buffer, [n][V], an empty list for a failure."""
        return [[checksum(buffer) for buffer in row or ()] for row in self.rows]

    @cached_property
    def id(self) -> bytes:
        """What the shard is known by, of 16 bytes: two that hold other images or values have other ones."""
        listed = [list(self.keys), [int(label) for label in self.labels], self.checksums, checksum(self.tables)]
        return hashlib.blake2b(json.dumps(listed).encode(), digest_size=ID_BYTES).digest()


def checksum(data: Data) -> int:
    """Its CRC-32C, at 20 GB/s on an x86 core."""
    value: int = google_crc32c.value(_as_array(data))
    return value


def with_checksum(data: bytes) -> bytes:
    """The data, their CRC-32C behind them."""
    return data + checksum(data).to_bytes(CHECKSUM_BYTES, "little")


def is_whole(data: Data) -> bool:
    """Whether these are data of `with_checksum`."""
    return bool(google_crc32c.value(_as_array(data)) == _RESIDUE)


def _as_array(data: Data) -> NDArray[np.uint8]:
    """What google_crc32c takes without a copy, which it does not a memoryview."""
    return data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
