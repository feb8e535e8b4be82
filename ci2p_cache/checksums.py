"""CRC-32C, zarr's own: what tells a damaged view when it is read, and one shard's file from another's.

a buffer  -->  its CRC-32C; behind it in a zarr, in record and marker of a tar
every CRC-32C of a shard, its keys, labels and tables  -->  BLAKE2b-128, the id: in the shard's file and its record
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import google_crc32c
import numpy as np
from numpy.typing import NDArray

CHECKSUM_BYTES = 4
ID_BYTES = 16
# Without a copy it takes numpy's arrays, and no memoryview; on an x86 core 8,000 bytes take it a microsecond.
crc32c: Callable[[NDArray[np.uint8]], int] = google_crc32c.value
RESIDUE = 0x48674BC7  # the CRC-32C of any data with their own behind it, little-endian


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


def checksum(data: bytes | memoryview) -> int:
    """Its CRC-32C."""
    return crc32c(np.frombuffer(data, np.uint8))


def with_checksum(data: bytes) -> bytes:
    """The data, their CRC-32C behind them."""
    return data + checksum(data).to_bytes(CHECKSUM_BYTES, "little")


def is_whole(data: bytes | memoryview) -> bool:
    """Whether these are data of `with_checksum`."""
    return checksum(data) == RESIDUE
