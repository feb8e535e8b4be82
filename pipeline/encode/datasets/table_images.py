"""Images in a column of a `datasets.Dataset`, and names for them that do not depend on where in the table they are."""

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.errors import InputError
from ci2p_cache.printable import printable
from ci2p_cache.regular_file import read_regular
from pipeline.encode.datasets.keys import item_keys
from pipeline.encode.datasets.split import Stamp
from pipeline.running.progress import progress

_ROWS_AT_ONCE = 100  # of Arrow's columns, whose bytes would not fit an index of 32 bits by the thousand
_MANY_ROWS = 10_000  # from here on, hashing takes long enough to be shown


@dataclass(frozen=True, eq=False)
class TableImages:
    """An ImageSource: an image column, undecoded, of a `datasets.Dataset` (memory-mapped, so cheap to pickle)."""

    table: Any  # of this column alone; a row is {"bytes": ..., "path": ...}
    column: str
    paths: Sequence[str | None]  # [num_rows], as the table has them
    sizes: NDArray[np.int64]  # [num_rows], bytes of an image in the table; -1 where a file on disk is meant

    def read(self, row: int) -> bytes:
        if self.sizes[row] < 0:
            return read_regular(self._path(row))
        data: bytes = self.table[row][self.column]["bytes"]
        return data

    def stamp(self, row: int) -> Stamp:
        if self.sizes[row] >= 0:
            return Stamp(int(self.sizes[row]))
        found = os.stat(self._path(row))  # noqa: PTH116
        return Stamp(found.st_size, found.st_mtime_ns)

    def _path(self, row: int) -> str:
        path = self.paths[row]
        assert path is not None, "list_table_images lets no row through that has neither bytes nor path"
        if "\0" in path:
            raise OSError(errno.EINVAL, "a NUL character in its name", printable(path))
        return path


def list_table_images(table: Any, column: str, where: str) -> TableImages:
    """The images of a table. Raises InputError, which begins with `where`, for a row without one, naming it."""
    import datasets

    pc = _arrow_compute()
    undecoded = table.cast_column(column, datasets.Image(decode=False)).select_columns(column)
    paths: list[str | None] = []
    sizes: list[int] = []
    for images in _arrow_chunks(undecoded, column):
        paths += pc.struct_field(images, "path").to_pylist()
        sizes += pc.fill_null(pc.binary_length(pc.struct_field(images, "bytes")), -1).to_pylist()
    for row, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        if size < 0 and not path:
            raise InputError(f"{where}: row {row} has no image; take such rows out")
    return TableImages(undecoded, column, tuple(paths), np.array(sizes, dtype=np.int64))


def table_paths(table: Any, column: str) -> list[str | None]:
    """What the table has for the path of each image."""
    import datasets

    undecoded = table.cast_column(column, datasets.Image(decode=False)).select_columns(column)
    pc = _arrow_compute()
    return [path for images in _arrow_chunks(undecoded, column) for path in pc.struct_field(images, "path").to_pylist()]


def table_keys(images: TableImages, labels: NDArray[np.int64], folder: Path | None, where: str) -> list[str]:
    """A key for each row, which rows that are added or taken out leave as it is.

    It is the file's name without extension: the path below `folder`, a relative path whole, the last name of another.
    Where a row has no path, or two have the same, it is a hash of the image instead, for which all of the split's
    images are read once, a chunk of rows at a time; images that are there twice get "-1", "-2" behind it, in the order
    of their labels. Raises InputError, which begins with `where`, when a file to be hashed cannot be read.
    """
    names = [None if path is None else printable(relative_name(path, folder)) for path in images.paths]
    named = [name for name in names if name]
    if len(named) == len(names) == len(set(named)):
        return item_keys(named)
    hashes = _hashes(images, where)
    keys = list(hashes)
    seen: Counter[str] = Counter()
    for row in np.lexsort((np.arange(len(labels)), labels)).tolist():
        number = seen[hashes[row]]
        seen[hashes[row]] += 1
        if number:
            keys[row] = f"{hashes[row]}-{number}"
    return keys


def relative_name(path: str, folder: Path | None) -> str:
    """A path without what differs from machine to machine."""
    scheme, _, inside = path.partition("://")
    if inside:  # zip://train/1.jpg::/home/x/archive.zip
        path = inside.partition("::")[0] if "::" in path else inside.rpartition("/")[2]
        return path.lstrip("/") if scheme == "zip" else path.rpartition("/")[2]
    if not path.startswith("/"):
        return os.path.normpath(path) if path and ".." not in path.split("/") else path.rpartition("/")[2]
    if folder is not None and path.startswith(f"{folder}/"):
        return path[len(str(folder)) + 1 :]
    return path.rpartition("/")[2]


def _hashes(images: TableImages, where: str) -> list[str]:
    pc = _arrow_compute()
    hashes: list[str] = []
    num_rows = len(images.paths)
    with progress("reading images for their keys", num_rows, "images", quiet=num_rows < _MANY_ROWS) as advance:
        for chunk in _arrow_chunks(images.table, images.column):
            for data in pc.struct_field(chunk, "bytes"):
                row = len(hashes)
                hashes.append(_hash(data.as_buffer() if data.is_valid else _file_bytes(images, row, where)))
            advance(len(chunk))
    return hashes


def _arrow_compute() -> Any:
    import pyarrow.compute  # its functions are made when it is imported, so that no type checker knows them

    return pyarrow.compute


def _hash(data: Any) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _file_bytes(images: TableImages, row: int, where: str) -> bytes:
    try:
        return images.read(row)
    except OSError as error:
        path = printable(images.paths[row] or "")
        raise InputError(
            f"{where}: row {row}: {path} cannot be read ({error.strerror or error}); put it back or take the row out"
        ) from error


def _arrow_chunks(table: Any, column: str) -> Iterator[Any]:
    for batch in table.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        yield from batch.column(column).chunks
