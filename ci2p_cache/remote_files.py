"""Files behind fsspec: read whole or by ranges, measured, listed. What goes wrong is an OSError, whatever the server.

Web servers are `web`'s, with its time-outs and tries; other stores (s3://, gs://) have those of their own client.
Each function raises ImportError or ValueError, too, for an address that fsspec or the client cannot make sense of.
"""

import errno
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ci2p_cache.regular_file import read_regular

MOST_BYTES = 1 << 30  # of a file whose length nobody knows
_BLOCK_BYTES = 5 << 20
# What the packages behind fsspec let through that is no OSError, a status of 500, say: module -> base class.
_CLIENT_ERRORS = {
    "azure.core.exceptions": "AzureError",
    "botocore.exceptions": "BotoCoreError",
    "gcsfs.retry": "HttpError",
}


class TooLong(OSError):
    """A file of `num_bytes`, or of more than that, where fewer were expected."""

    def __init__(self, num_bytes: int, url: str):
        super().__init__(errno.EFBIG, f"it has {num_bytes} bytes or more", url)
        self.num_bytes = num_bytes


def read_file(url: str, most_bytes: int | None = None) -> bytes:
    """A whole file. Raises OSError: FileNotFoundError, PermissionError, TooLong beyond `most_bytes` (1 GiB)."""
    most_bytes = MOST_BYTES if most_bytes is None else most_bytes
    filesystem, path = filesystem_of(url)
    if _is_web(filesystem):
        from ci2p_cache import web

        return web.get(filesystem, path, most_bytes)
    if isinstance(filesystem, LocalFileSystem):
        data = read_regular(path)
    else:
        with client_errors(url):
            data = filesystem.cat_file(path)
    if len(data) > most_bytes:
        raise TooLong(len(data), url)
    return data


def read_range(url: str, begin: int, end: int) -> bytes:
    """Bytes `begin` to `end` of a file, fewer at its end. Raises OSError."""
    filesystem, path = filesystem_of(url)
    if _is_web(filesystem):
        from ci2p_cache import web

        return web.get_range(filesystem, path, begin, end)
    with client_errors(url):
        data: bytes = filesystem.cat_file(path, start=begin, end=end)
        return data


def file_size(url: str) -> int | None:
    """In bytes, in one request; None when the server does not say. Raises OSError, FileNotFoundError for none."""
    filesystem, path = filesystem_of(url)
    if _is_web(filesystem):
        from ci2p_cache import web

        return web.size(filesystem, path)
    with client_errors(url):
        size = filesystem.size(path)
        return None if size is None else int(size)


def exists(url: str) -> bool:
    """Whether there is a file or a folder. Raises OSError when the server does not say."""
    filesystem, path = filesystem_of(url)
    if _is_web(filesystem):
        from ci2p_cache import web

        try:
            web.size(filesystem, path)
        except FileNotFoundError:
            return False
        return True
    with client_errors(url):
        return bool(filesystem.exists(path))


def entries(folder: str) -> tuple[list[str], list[str]]:
    """Sorted names of its folders and of its files. Raises OSError, FileNotFoundError for no such folder."""
    filesystem, path = filesystem_of(folder)
    if _is_web(filesystem):
        from ci2p_cache import web

        folders, files = web.entries(filesystem, path)
        return sorted(set(folders)), sorted(set(files))
    with client_errors(folder):
        found: list[dict[str, Any]] = filesystem.ls(path, detail=True)
    names: tuple[set[str], set[str]] = (set(), set())
    for entry in found:
        inside = str(entry["name"]).rstrip("/")
        name = inside.rpartition("/")[2]
        if name and inside != str(path).rstrip("/"):  # a store may list the folder itself
            names[0 if entry["type"] == "directory" else 1].add(name)
    return sorted(names[0]), sorted(names[1])


def open_file(url: str) -> IO[bytes]:
    """A file to be read in any order, by blocks of 5 MiB. Raises OSError, then and when it is read."""
    return cast("IO[bytes]", io.BufferedReader(_Ranges(url), _BLOCK_BYTES))


def open_ranges(url: str) -> io.RawIOBase:
    """A file of which exactly what is asked for is fetched, a request a read. Raises OSError, then and when read."""
    return _Ranges(url)


def filesystem_of(url: str) -> tuple[Any, str]:
    """The file system, which fsspec keeps one of per process and address, and the path in it."""
    options: dict[str, Any] = {}
    if url.lower().startswith(("http://", "https://")):
        configured = fsspec.config.conf.get("http", {}).get("client_kwargs", {})
        options["client_kwargs"] = {"trust_env": True, **configured}  # the environment's proxies, as other programs
    filesystem, path = fsspec.core.url_to_fs(url, **options)
    return filesystem, str(path)


def _is_web(filesystem: Any) -> bool:
    return "http" in filesystem.protocol and "://" not in filesystem.protocol


class _Ranges(io.RawIOBase):
    """A file of known size, each read of which is a request."""

    def __init__(self, url: str):
        super().__init__()
        self._url = url
        size = file_size(url)
        if size is None:
            raise OSError(errno.EIO, "its server does not tell how long it is; copy it to a disk", url)
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._size)
        if end <= self._position:
            return 0
        data = read_range(self._url, self._position, end)
        if len(data) != end - self._position:
            raise OSError(errno.EIO, f"{len(data)} of {end - self._position} bytes came", self._url)
        buffer[: len(data)] = data
        self._position = end
        return len(data)


def describe(error: Exception) -> str:
    """What one of these functions raised, in a line without the address."""
    return " ".join((getattr(error, "strerror", None) or str(error)).split())


@contextmanager
def client_errors(url: str) -> Iterator[None]:
    """Turns what the clients of stores raise into OSError."""
    loaded = [(sys.modules[module], name) for module, name in _CLIENT_ERRORS.items() if module in sys.modules]
    try:
        yield
    except tuple(getattr(module, name) for module, name in loaded) as error:
        raise OSError(errno.EIO, " ".join(f"{type(error).__name__}: {error}".split()), url) from error
