"""Where a cache lies: a folder of this machine, or one behind an fsspec URL, walked by the same few methods as a Path.

An object is put whole; what is there is asked for anew each time, for others write there too.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from fsspec.implementations.local import LocalFileSystem

from ci2p_cache import remote_files
from ci2p_cache.local_path import is_url
from ci2p_cache.regular_file import read_regular

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")

_THREADS = 8  # each of which waits for a server most of the time
_AHEAD = 64


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or a folder behind an fsspec URL. Every method that asks the server raises OSError, which names it."""

    url: str  # without a slash at its end

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> "RemotePath":
        return RemotePath(self.url.rpartition("/")[0])

    def exists(self) -> bool:
        return remote_files.exists(self.url)

    def is_dir(self) -> bool:
        """Whether something lies in it: a store knows no empty folders."""
        try:
            return any(remote_files.entries(self.url))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def read_bytes(self) -> bytes:
        return remote_files.read_file(self.url)

    def unlink(self, missing_ok: bool = True) -> None:
        remote_files.remove_file(self.url)

    def resolve(self) -> "RemotePath":
        return self


AnyPath = Path | RemotePath


def path_of(address: str | Path) -> AnyPath:
    """A URL's RemotePath, or the Path. Raises InputError for a URL that fsspec cannot make sense of."""
    text = str(address)
    if not is_url(text):
        return Path(address)
    url = text.rstrip("/")
    try:
        filesystem, path = remote_files.filesystem_of(url)
        if isinstance(filesystem, LocalFileSystem):
            return Path(path)
    except (ImportError, ValueError) as error:  # fsspec finds s3:// and gs:// through packages of their own
        raise remote_files.cannot_open("", url, error) from error
    return RemotePath(url)


def read_whole(path: AnyPath) -> bytes:
    """Of a regular file. Raises OSError, FileNotFoundError where there is none."""
    return path.read_bytes() if isinstance(path, RemotePath) else read_regular(path)


def num_bytes(path: AnyPath) -> int | None:
    """Of a file; None where its server does not say. Raises OSError, FileNotFoundError where there is none."""
    return remote_files.file_size(path.url) if isinstance(path, RemotePath) else path.stat().st_size


def folders_in(folder: AnyPath) -> list[str]:
    """Sorted names; none where there is no such folder. Raises OSError."""
    try:
        if isinstance(folder, RemotePath):
            return remote_files.entries(folder.url)[0]
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def files_in(folder: AnyPath) -> list[str]:
    """Sorted names of what is no folder; none where there is no such folder. Raises OSError."""
    try:
        if isinstance(folder, RemotePath):
            return remote_files.entries(folder.url)[1]
        return sorted(entry.name for entry in folder.iterdir() if not entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def each_of(function: Callable[[ItemT], ValueT], items: Iterable[ItemT], where: AnyPath | str) -> Iterator[ValueT]:
    """`map`, in order; many at a time where each is a request to a server."""
    if not is_url(str(where)):
        yield from map(function, items)
        return
    rest = iter(items)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="ci2p-ask") as threads:
        asked = [threads.submit(function, item) for item in islice(rest, _AHEAD)]
        try:
            while asked:
                found = asked.pop(0).result()
                asked += [threads.submit(function, item) for item in islice(rest, 1)]
                yield found
        finally:
            for future in asked:
                future.cancel()
