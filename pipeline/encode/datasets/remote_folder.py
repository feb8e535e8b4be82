"""Images in a folder on a server (s3://, gs://): listed once, by requests of a thousand names, and read one by one.

What a listing says of a file, its size and its time, is kept, so that nothing is asked of a million images to know
which have changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ci2p_cache import remote_files
from ci2p_cache.packed_strings import PackedStrings
from ci2p_cache.remote_path import RemotePath, each_of
from pipeline.encode.datasets.split import Stamp


class RemoteEntry(NamedTuple):
    """A name in a folder, with the methods of an os.DirEntry that are used here; nothing there is a link."""

    name: str
    path: str
    is_folder: bool
    num_bytes: int
    modified_ns: int

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return not self.is_folder

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self.is_folder

    def is_symlink(self) -> bool:
        return False


@dataclass(frozen=True, eq=False)
class RemoteFiles:
    """An ImageSource: files below a folder of a server, by relative name, as they were listed."""

    root: str
    names: PackedStrings
    num_bytes: NDArray[np.int64]  # [N]; -1 where it is not known
    modified_ns: NDArray[np.int64]  # [N]

    def read(self, row: int) -> bytes:
        size = int(self.num_bytes[row])
        url = f"{self.root}/{self.names[row]}"
        return remote_files.read_file(url, remote_files.MOST_BYTES, None if size < 0 else size)

    def stamp(self, row: int) -> Stamp:
        return Stamp(int(self.num_bytes[row]), int(self.modified_ns[row]))


_listed: dict[str, list[RemoteEntry]] = {}  # a folder is looked at several times on the way to its images
_looked_below: set[str] = set()  # folders of which those in them are, or were, among these


def forget_listings() -> None:
    """What is listed from here on is what is there now."""
    _listed.clear()
    _looked_below.clear()


def scan(folder: str) -> list[RemoteEntry]:
    """What is in a folder; nothing where there is none. Raises OSError. The folders in it are listed, too, at once."""
    if folder not in _listed:
        _listed[folder] = _list(folder)
    if folder not in _looked_below:
        below = [entry.path for entry in _listed[folder] if entry.is_folder and entry.path not in _listed]
        for path, found in zip(below, each_of(_list, below, folder), strict=True):
            _listed[path] = found
        _looked_below.add(folder)
    return _listed[folder]


def remote_images(root: RemotePath, names: Sequence[str]) -> RemoteFiles:
    """Images whose folders have been listed, by their names below `root`; these listings are let go of."""
    folders = {f"{root}/{name}".rpartition("/")[0] for name in names}
    known = {entry.path: entry for folder in folders for entry in scan(folder)}
    entries = [known[f"{root}/{name}"] for name in names]
    for folder in folders:
        _listed.pop(folder, None)
    return RemoteFiles(
        str(root),
        PackedStrings(names),
        np.array([entry.num_bytes for entry in entries], np.int64),
        np.array([entry.modified_ns for entry in entries], np.int64),
    )


def _list(folder: str) -> list[RemoteEntry]:
    try:
        described = remote_files.described_entries(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [RemoteEntry(name, f"{folder}/{name}", is_folder, *_stamp_of(info)) for name, is_folder, info in described]


def _stamp_of(info: dict[str, Any]) -> Stamp:
    size = info.get("size")
    time = next((info[name] for name in ("LastModified", "mtime", "last_modified", "created") if info.get(name)), None)
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    modified_ns = round(time.timestamp() * 1000) * 1_000_000 if isinstance(time, datetime) else -1
    return Stamp(-1 if size is None else int(size), modified_ns)
