"""Images in a column of parquet files, read a row group at a time: what a row costs is its row group.

row -> row group -> (file, number in it) -> the group's images, of which the last few are held -> bytes
"""

import errno
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.printable import printable
from ci2p_cache.remote import cannot_read
from pipeline.encode.datasets.parquet_files import keep_open, plain_values, reading_errors
from pipeline.encode.datasets.split import Stamp
from pipeline.encode.datasets.tar_members import is_url

HELD_BYTES = 64 << 20  # of row groups, in a process; one larger than that is held alone
_MOST_OPEN = 32  # files


class ParquetImages:
    """An ImageSource: the rows of parquet files, one file after another, local paths or fsspec URLs.

    `group_rows[f]` are the rows of each row group of file f. Nothing open or held travels when the source is pickled.
    """

    def __init__(self, files: Sequence[str], column: str, group_rows: Sequence[Sequence[int]]) -> None:
        self.files = tuple(files)
        self.column = column
        self._begins: NDArray[np.int64] = np.cumsum([0, *(n for rows in group_rows for n in rows)], dtype=np.int64)
        self._file_begins: NDArray[np.int64] = np.cumsum([0, *map(len, group_rows)], dtype=np.int64)  # in row groups
        self._forget()

    def read(self, row: int) -> bytes:
        """Raises WorkError where a server fails, which makes no image a bad one; OSError for all else."""
        group = int(np.searchsorted(self._begins, row, side="right")) - 1
        file = int(np.searchsorted(self._file_begins, group, side="right")) - 1
        path = self.files[file]
        try:
            with self._lock, reading_errors(path):
                images = self._group(path, group, group - int(self._file_begins[file]))
                data = images[row - int(self._begins[group])].as_py()
        except OSError as error:
            if is_url(path):
                raise cannot_read(printable(path), error) from error
            raise
        if data is None:
            raise OSError(errno.ENODATA, f"its row has nothing in {self.column}", path)
        return bytes(data)

    def stamp(self, row: int) -> Stamp:
        """The time of a local file; the size of an image shows when it is read."""
        group = int(np.searchsorted(self._begins, row, side="right")) - 1
        path = self.files[int(np.searchsorted(self._file_begins, group, side="right")) - 1]
        if path not in self._modified_ns:
            self._modified_ns[path] = -1 if is_url(path) else Path(path).stat().st_mtime_ns
        return Stamp(modified_ns=self._modified_ns[path])

    def _group(self, path: str, group: int, number: int) -> Any:
        """The images of a row group, which is number `number` of a file, as an Arrow array."""
        held = self._held.get(group)
        if held is not None:
            self._held.move_to_end(group)
            return held
        images = plain_values(self._table(path).read_row_group(number, columns=[self.column], use_threads=False))
        if len(images) != self._begins[group + 1] - self._begins[group]:
            raise OSError(errno.EIO, "the file has changed since it was listed", path)
        self._held[group] = images
        while len(self._held) > 1 and sum(each.nbytes for each in self._held.values()) > HELD_BYTES:
            self._held.popitem(last=False)
        return images

    def _table(self, path: str) -> Any:
        table = self._tables.get(path)
        if table is None:
            table = self._tables[path] = keep_open(path)
            if len(self._tables) > _MOST_OPEN:
                self._tables.popitem(last=False)
        self._tables.move_to_end(path)
        return table

    def _forget(self) -> None:
        self._held: OrderedDict[int, Any] = OrderedDict()  # row group -> its images, the last used at the end
        self._tables: OrderedDict[str, Any] = OrderedDict()  # path -> the open file, likewise
        self._modified_ns: dict[str, int] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        own = ("files", "column", "_begins", "_file_begins")
        return {name: self.__dict__[name] for name in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()
