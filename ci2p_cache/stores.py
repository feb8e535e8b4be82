"""Object stores behind fsspec (s3://, gs://, az://, memory://): asked again with a bound, whatever a server does.

An object is read and put whole: a body of another length than the object's is asked for again, as `tries` says. What
comes at less than 16 KiB/s is silence. Every fault is an OSError whose `strerror` tells it in one line; of what is not
there a FileNotFoundError.
"""

import asyncio
import errno
from typing import Any

from fsspec.asyn import sync

from ci2p_cache.tries import TooLong, tried

_SLOWEST_BYTES_S = 16 * 1024
_BLOCK_BYTES = 64 << 20  # what is fetched by one request
_PAGES = 300  # a listing is many requests, and may take as many times longer
# Stores that show an object once all of it is there; what is a file system behind fsspec would show half a file.
_WHOLE = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"}


class _OtherLength(OSError):
    """A body that has not the length of its object, which a cut connection or a write meanwhile leaves."""

    def __init__(self, found: int, expected: int, url: str):
        super().__init__(errno.EIO, f"{found} of {expected} bytes came", url)


def get(filesystem: Any, path: str, url: str, most_bytes: int, num_bytes: int | None = None) -> bytes:
    """A whole object, in one request where it has the `num_bytes` that it should have. Raises TooLong, too."""

    def ask(wait_s: float) -> bytes:
        expected = _size(filesystem, path, wait_s) if num_bytes is None else num_bytes
        if expected > most_bytes:
            raise TooLong(expected, url)
        data = _read(filesystem, path, 0, expected + 1, wait_s)  # a byte more than should be there
        if len(data) == expected:
            return data
        there = _size(filesystem, path, wait_s)
        if there > most_bytes:
            raise TooLong(there, url)
        if len(data) != there:
            raise _OtherLength(len(data), there, url)
        return data

    return tried(url, ask)


def get_range(filesystem: Any, path: str, url: str, begin: int, end: int) -> bytes:
    """Bytes `begin` to `end` of an object, fewer at its end."""

    def ask(wait_s: float) -> bytes:
        data = _read(filesystem, path, begin, end, wait_s)
        if len(data) != end - begin:
            expected = max(0, min(end, _size(filesystem, path, wait_s)) - begin)
            if len(data) != expected:
                raise _OtherLength(len(data), expected, url)
        return data

    return tried(url, ask)


def put(filesystem: Any, path: str, url: str, data: bytes) -> None:
    """Makes an object of `data`, whole or not at all. Raises OSError, also for what is no store of objects."""
    protocols = filesystem.protocol
    if not _WHOLE & ({protocols} if isinstance(protocols, str) else {*protocols}):
        raise OSError(
            errno.EROFS, "nothing is written there: files are put into a folder, s3://, gs:// and az:// alone", url
        )

    def ask(wait_s: float) -> None:
        _call(filesystem, "pipe_file", path, data, limit_s=_limit(wait_s, len(data)))
        there = _size(filesystem, path, wait_s)
        if there != len(data):
            raise _OtherLength(there, len(data), url)

    tried(url, ask, of_none=False)


def remove(filesystem: Any, path: str, url: str) -> None:
    """Deletes an object; that there is none is no error."""

    def ask(wait_s: float) -> None:
        try:
            _call(filesystem, "rm_file", path, limit_s=wait_s)
        except FileNotFoundError:
            return

    tried(url, ask)


def size(filesystem: Any, path: str, url: str) -> int:
    """Of an object, in bytes."""
    return tried(url, lambda wait_s: _size(filesystem, path, wait_s))


def exists(filesystem: Any, path: str, url: str) -> bool:
    """Whether there is an object, or a folder of some."""

    def ask(wait_s: float) -> bool:
        filesystem.invalidate_cache()  # others write there, too
        return bool(_call(filesystem, "exists", path, limit_s=wait_s))

    return tried(url, ask)


def entries(filesystem: Any, path: str, url: str) -> list[dict[str, Any]]:
    """What lies in a folder, as fsspec describes it."""

    def ask(wait_s: float) -> list[dict[str, Any]]:
        filesystem.invalidate_cache()
        found: list[dict[str, Any]] = _call(filesystem, "ls", path, detail=True, limit_s=_PAGES * wait_s)
        return found

    return tried(url, ask)


def find(filesystem: Any, path: str, url: str) -> dict[str, int]:
    """The size of every object below a folder, by its name from there: a request for a thousand of them."""

    def ask(wait_s: float) -> dict[str, int]:
        filesystem.invalidate_cache()
        found = _call(filesystem, "find", path, detail=True, limit_s=_PAGES * wait_s)
        return {name: int(described["size"]) for name, described in found.items()}

    begin = len(path.rstrip("/")) + 1
    return {name[begin:]: size for name, size in sorted(tried(url, ask).items())}


def _read(filesystem: Any, path: str, begin: int, end: int, wait_s: float) -> bytes:
    """By ranges, for a whole object s3fs fetches in parts which it does not count."""
    blocks: list[bytes] = []
    for start in range(begin, end, _BLOCK_BYTES):
        stop = min(start + _BLOCK_BYTES, end)
        limit_s = _limit(wait_s, stop - start)
        try:
            blocks.append(_call(filesystem, "cat_file", path, start=start, end=stop, limit_s=limit_s))
        except OSError as error:
            if error.errno != errno.EINVAL or _size(filesystem, path, wait_s) > start:
                raise
            break  # there is nothing behind the end of an object, not even an empty range
        if len(blocks[-1]) != stop - start:
            break
    return blocks[0] if len(blocks) == 1 else b"".join(blocks)


def _size(filesystem: Any, path: str, wait_s: float) -> int:
    filesystem.invalidate_cache()
    try:
        info: dict[str, Any] = _call(filesystem, "info", path, limit_s=wait_s)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _call(filesystem, "cat_file", path, start=0, end=1, limit_s=wait_s)  # whose answer says what is wrong
        raise
    if info.get("type") == "directory" or info.get("size") is None:
        raise FileNotFoundError(path)
    return int(info["size"])


def _limit(wait_s: float, num_bytes: int) -> float:
    return wait_s + num_bytes / _SLOWEST_BYTES_S


def _call(filesystem: Any, name: str, *arguments: Any, limit_s: float | None, **options: Any) -> Any:
    if not filesystem.async_impl:
        return getattr(filesystem, name)(*arguments, **options)

    async def ask() -> Any:
        async with asyncio.timeout(limit_s):
            return await getattr(filesystem, f"_{name}")(*arguments, **options)

    return sync(filesystem.loop, ask)
