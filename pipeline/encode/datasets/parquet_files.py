"""Parquet files, local or remote: what their footers say, and single columns of them.

A column is named as parquet does, "image.bytes" for a field of a struct. What cannot be read is an OSError.
"""

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ci2p_cache.errors import InputError
from ci2p_cache.extras import not_installed
from ci2p_cache.printable import printable
from ci2p_cache.remote_files import open_ranges
from pipeline.encode.datasets.data_dir import reading
from pipeline.encode.datasets.tar_members import is_url


@dataclass(frozen=True)
class Column:
    """A column, or a field of a struct, that holds single values."""

    path: str  # "label", "image.bytes"
    kind: str  # "binary", "string", "integer", or Arrow's word for anything else


@dataclass(frozen=True)
class Footer:
    """What a file says of itself at its end."""

    columns: tuple[Column, ...]
    features: dict[str, Any]  # column -> what the `datasets` library says of it; empty where another wrote the file
    group_rows: tuple[int, ...]  # rows of each row group
    num_bytes: int  # of all columns, before compression


def read_footer(path: str) -> Footer:
    """Of one file. Raises InputError when it is missing, cut short or no parquet file."""
    with listing_errors(path), open_table(path) as table:
        metadata, schema = table.metadata, table.schema_arrow
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        return Footer(
            columns=tuple(_columns_of(schema, "")),
            features=_features(schema.metadata or {}),
            group_rows=tuple(group.num_rows for group in groups),
            num_bytes=sum(group.total_byte_size for group in groups),
        )


def read_column(path: str, column: str) -> Any:
    """A whole column of a file, as an Arrow chunked array. Raises InputError when it cannot be read."""
    with listing_errors(path), open_table(path) as table:
        return plain_values(table.read(columns=[column]))


@contextmanager
def open_table(path: str) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile`. Raises what pyarrow does."""
    with _opened(path) as file:
        yield _parquet().ParquetFile(file)


def keep_open(path: str) -> Any:
    """The same, open until it is let go of."""
    return _parquet().ParquetFile(_opened(path))


def plain_values(table: Any) -> Any:
    """The one column of a table, an Arrow chunked array; of structs, their one field."""
    import pyarrow as pa

    column = table.column(0)
    while pa.types.is_struct(column.type):
        (column,) = column.flatten()
    return column


@contextmanager
def reading_errors(path: str) -> Iterator[None]:
    """Turns what pyarrow raises of a damaged file into OSError."""
    import pyarrow as pa

    try:
        yield
    except pa.ArrowException as error:
        raise OSError(errno.EIO, _text(error), path) from error


@contextmanager
def listing_errors(path: str) -> Iterator[None]:
    """Turns what is raised of a file that cannot be listed into one line."""
    pa = _pyarrow()
    shown = printable(path)
    try:
        with reading(path):
            yield
    except pa.ArrowException as error:
        raise InputError(
            f"--data-dir: {shown} is cut short or is no parquet file ({_text(error)}); copy or download it again"
        ) from error


def _text(error: Exception) -> str:
    return printable(" ".join(str(error).split()))[:160]


def _pyarrow() -> Any:
    try:
        import pyarrow as pa
    except ImportError as error:
        raise not_installed("parquet", "--dataset parquet", error) from error
    return pa


def _parquet() -> Any:
    _pyarrow()
    import pyarrow.parquet

    return pyarrow.parquet


def _opened(path: str) -> Any:
    if is_url(path):
        return open_ranges(path)
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return file


def _columns_of(fields: Any, prefix: str) -> Iterator[Column]:
    import pyarrow as pa

    for field in fields:
        if pa.types.is_struct(field.type):
            yield from _columns_of(field.type, f"{prefix}{field.name}.")
        else:
            yield Column(prefix + field.name, _kind(field.type))


def _kind(kind: Any) -> str:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return "binary"
    if types.is_string(kind) or types.is_large_string(kind):
        return "string"
    return "integer" if types.is_integer(kind) else str(kind)


def _features(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """What the `datasets` library wrote into the schema; anything else there is not for us."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, LookupError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}
