"""What the manifest knows of each shard: a row a shard in shards.npy, so that opening a split parses none of them.

SPLIT/shards.npy    [S] of the type ROW; sealed by the manifest, it seals the shards and their markers
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.bounds import SHARD_FILES
from ci2p_cache.marker import Marker, ShardRecord, marker_file
from ci2p_cache.seals import FileSeal

SHARDS = "shards.npy"
ROW = np.dtype(
    [
        ("num_samples", "<i8"),  # images stored
        ("bytes", "<i8"),
        ("num_escapes", "<i8"),
        ("marker_bytes", "<i8"),
        ("labels_crc32c", "<u4"),  # of the shard's part of labels.npy
        ("id", "u1", (16,)),
        ("sha256", "u1", (32,)),
        ("escapes_sha256", "u1", (32,)),  # zeros where there are no escapes
        ("marker_sha256", "u1", (32,)),
    ]
)
Rows = NDArray[np.void]
_MARKER_FILE = re.compile(r"shards/([0-9]{6,9})\.json")


class ShardTable(Sequence[ShardRecord]):
    """A ShardRecord a shard, made when it is asked for."""

    def __init__(self, rows: Rows, format: str, *, has_markers: bool = True):
        """`has_markers`: whether it knows the markers' seals and the labels' checksums, as format version 2 does."""
        self.rows = rows
        self.format = format
        self.has_markers = has_markers

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> ShardRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ShardRecord]: ...
    def __getitem__(self, index: int | slice) -> ShardRecord | Sequence[ShardRecord]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        row: Any = self.rows[number]
        id, num_escapes = row["id"].tobytes(), int(row["num_escapes"])
        return ShardRecord.model_construct(
            file=self.file(number),
            num_samples=int(row["num_samples"]),
            bytes=int(row["bytes"]),
            sha256=row["sha256"].tobytes().hex(),
            id=id.hex() if any(id) else None,
            num_escapes=num_escapes,
            escapes_sha256=row["escapes_sha256"].tobytes().hex() if num_escapes else None,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ShardTable):
            return NotImplemented
        return self.format == other.format and np.array_equal(self.rows, other.rows)

    __hash__ = None  # type: ignore[assignment]

    def file(self, number: int) -> str:
        """Where a shard lies, relative to the split's folder."""
        return SHARD_FILES[self.format].format(number)

    def column(self, name: str) -> NDArray[Any]:
        """[S] one of the fields of ROW."""
        column: NDArray[Any] = self.rows[name]
        return column

    def seals(self) -> "TableSeals":
        """Of the shards' files and of their markers."""
        return TableSeals(self)


class TableSeals(Mapping[str, FileSeal]):
    """Seals of shards and markers by their files' names, without a list of these."""

    def __init__(self, table: ShardTable):
        self._table = table
        before, behind = SHARD_FILES[table.format].split("{", 1)[0], SHARD_FILES[table.format].split("}", 1)[1]
        self._shard_file = re.compile(f"{re.escape(before)}([0-9]{{1,9}}){re.escape(behind)}")

    def __len__(self) -> int:
        return len(self._table) * (2 if self._table.has_markers else 1)

    def __iter__(self) -> Iterator[str]:
        for number in range(len(self._table)):
            if self._table.has_markers:
                yield marker_file(number)
            yield SHARD_FILES[self._table.format].format(number)

    def __getitem__(self, name: str) -> FileSeal:
        for pattern, file, column in (
            (self._shard_file, SHARD_FILES[self._table.format], ("sha256", "bytes")),
            (_MARKER_FILE, marker_file(0).replace("000000", "{:06d}"), ("marker_sha256", "marker_bytes")),
        ):
            found = pattern.fullmatch(name)
            if found is None or (pattern is _MARKER_FILE and not self._table.has_markers):
                continue
            number = int(found[1])
            if number < len(self._table) and file.format(number) == name:
                row: Any = self._table.rows[number]
                return FileSeal(row[column[0]].tobytes().hex(), int(row[column[1]]))
        raise KeyError(name)


def row_of(record: ShardRecord, marker: FileSeal | None = None, labels_crc32c: int = 0) -> tuple[Any, ...]:
    """As ROW has it."""

    def digits(text: str | None, length: int) -> NDArray[np.uint8]:
        return np.frombuffer(bytes.fromhex(text) if text else bytes(length), np.uint8)

    return (
        record.num_samples,
        record.bytes,
        record.num_escapes,
        marker.num_bytes if marker else 0,
        labels_crc32c,
        digits(record.id, 16),
        digits(record.sha256, 32),
        digits(record.escapes_sha256, 32),
        digits(marker.sha256 if marker else None, 32),
    )


def table_of_records(records: Sequence[ShardRecord], format: str) -> ShardTable:
    """Of a manifest that lists its shards. Raises ValueError for one that has another file than its number says."""
    for number, record in enumerate(records):
        expected = SHARD_FILES[format].format(number)
        if record.file != expected:
            raise ValueError(f"shards.{number}.file is {record.file[:60]!r}: it is {expected}")
    rows = np.array([row_of(record) for record in records], dtype=ROW)
    return ShardTable(rows, format, has_markers=False)


def is_as_marked(table: ShardTable, marker: Marker) -> bool:
    """Whether a marker's record is that of the table."""
    return marker.shard < len(table) and table[marker.shard] == marker.record
