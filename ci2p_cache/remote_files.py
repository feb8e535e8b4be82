"""Files behind fsspec: read whole or by ranges, measured, listed. What goes wrong is an OSError, whatever the server.

Web servers are `web`'s and object stores (s3://, gs://) are `stores`', with their time-outs and tries.
Each function raises ImportError or ValueError, too, for an address that fsspec or the client cannot make sense of.
"""

import errno
import io
from typing import IO, Any, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ci2p_cache import stores
from ci2p_cache.errors import InputError
from ci2p_cache.extras import not_installed
from ci2p_cache.network_timeout import timeout_s
from ci2p_cache.regular_file import read_regular
from ci2p_cache.tries import TooLong as TooLong

_EXTRA_OF = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}  # scheme -> the extra that brings its client
MOST_BYTES = 1 << 30  # of a file whose length nobody knows
_BLOCK_BYTES = 5 << 20
# What a fork takes along is not to be closed in the child, as fsspec would do on forgetting it: its event loop is the
# parent's.
_kept: dict[int, Any] = {}


def read_file(url: str, most_bytes: int | None = None, num_bytes: int | None = None) -> bytes:
    """A whole file, of the `num_bytes` that it should have, if the caller knows them.

    Raises OSError: FileNotFoundError, PermissionError, TooLong beyond `most_bytes` (1 GiB, or `num_bytes`).
    """
    if most_bytes is None:
        most_bytes = MOST_BYTES if num_bytes is None else num_bytes
    filesystem, path = filesystem_of(url)
    if _is_web(filesystem):
        from ci2p_cache import web

        return web.get(filesystem, path, most_bytes)
    if not isinstance(filesystem, LocalFileSystem):
        return stores.get(filesystem, path, url, most_bytes, num_bytes)
    data = read_regular(path)
    if len(data) > most_bytes:
        raise TooLong(len(data), url)
    return data


def write_file(url: str, data: bytes) -> None:
    """Makes a file of `data`, whole or not at all. Raises OSError, also for what takes no files."""
    filesystem, path = filesystem_of(url)
    stores.put(filesystem, path, url, data)


def remove_file(url: str) -> None:
    """Deletes a file; that there is none is no error. Raises OSError."""
    filesystem, path = filesystem_of(url)
    stores.remove(filesystem, path, url)


def sizes_below(folder: str) -> dict[str, int] | None:
    """The size of every file below a folder, by its name from there; None of a web server, which lists no sizes.

    Raises OSError: PermissionError where listing is not allowed.
    """
    filesystem, path = filesystem_of(folder)
    return None if _is_web(filesystem) else stores.find(filesystem, path, folder)


def files_below(folder: str) -> list[str]:
    """Every file below a folder at any depth, sorted, by its name from there. Raises OSError."""
    filesystem, path = filesystem_of(folder)
    if not _is_web(filesystem):
        return list(stores.find(filesystem, path, folder))
    folders, files = entries(folder)
    return sorted([*files, *(f"{name}/{file}" for name in folders for file in files_below(f"{folder}/{name}"))])


def read_range(url: str, begin: int, end: int) -> bytes:
    """Bytes `begin` to `end` of a file, fewer at its end. Raises OSError."""
    filesystem, path = filesystem_of(url)
    if _is_web(filesystem):
        from ci2p_cache import web

        return web.get_range(filesystem, path, begin, end)
    return stores.get_range(filesystem, path, url, begin, end)


def file_size(url: str) -> int | None:
    """In bytes, in one request; None when the server does not say. Raises OSError, FileNotFoundError for none."""
    filesystem, path = filesystem_of(url)
    if _is_web(filesystem):
        from ci2p_cache import web

        return web.size(filesystem, path)
    return stores.size(filesystem, path, url)


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
    return stores.exists(filesystem, path, url)


def entries(folder: str) -> tuple[list[str], list[str]]:
    """Sorted names of its folders and of its files. Raises OSError, FileNotFoundError for no such folder."""
    filesystem, path = filesystem_of(folder)
    if _is_web(filesystem):
        from ci2p_cache import web

        folders, files = web.entries(filesystem, path)
        return sorted(set(folders)), sorted(set(files))
    names: tuple[set[str], set[str]] = (set(), set())
    for name, is_folder, _ in described_entries(folder):
        names[0 if is_folder else 1].add(name)
    return sorted(names[0]), sorted(names[1])


def described_entries(folder: str) -> list[tuple[str, bool, dict[str, Any]]]:
    """(name, whether it is a folder, what fsspec says of it) of all that lies in a folder. Raises OSError.

    Of what a web server has, nothing is said beside the name.
    """
    filesystem, path = filesystem_of(folder)
    if _is_web(filesystem):
        folders, files = entries(folder)
        return [*((name, True, {}) for name in folders), *((name, False, {}) for name in files)]
    found = []
    for entry in stores.entries(filesystem, path, folder):
        inside = str(entry["name"]).rstrip("/")
        name = inside.rpartition("/")[2]
        if name and inside != str(path).rstrip("/"):  # a store may list the folder itself
            found.append((name, entry["type"] == "directory", entry))
    return found


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
    is_s3 = url.lower().startswith(("s3://", "s3a://"))
    if is_s3:
        wait_s = timeout_s() / 3
        configured = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        options["config_kwargs"] = {
            "connect_timeout": wait_s,
            "read_timeout": wait_s,
            "retries": {"total_max_attempts": 1},  # `stores` asks again, and knows a bound
            **configured,
        }
    filesystem, path = fsspec.core.url_to_fs(url, **options)
    if is_s3:
        filesystem.retries = 1  # the same of s3fs
    _kept[id(filesystem)] = filesystem
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


def cannot_open(what: str, url: str, error: Exception) -> InputError:
    """What to say where fsspec or a client makes no sense of a URL, or its package is not there."""
    extra = _EXTRA_OF.get(url.partition("://")[0].lower())
    if extra is not None and isinstance(error, ImportError):
        missing = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        return not_installed(extra, f"{what} {url}".strip(), missing)
    return InputError(f"{what} {url} cannot be opened: {describe(error)}".strip())


def describe(error: Exception) -> str:
    """What one of these functions raised, in a line without the address."""
    return " ".join((getattr(error, "strerror", None) or str(error)).split())
