"""Object stores behind fsspec (s3://, gs://, az://, memory://): asked again with a bound, whatever a server does.

What may pass (a status of 500 or 503, silence, a broken connection, a body of another length than the object's) is
asked for again after a pause that doubles, until CI2P_NETWORK_TIMEOUT (30 s) is used up by silence and pauses. A body
that comes at less than 16 KiB/s is silence. Every fault is an OSError whose `strerror` tells it in one line; of what is
not there a FileNotFoundError.
"""

import asyncio
import errno
import itertools
import random
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from fsspec.asyn import sync

from ci2p_cache.network_timeout import TIMEOUT_VARIABLE, timeout_s
from ci2p_cache.printable import printable

ValueT = TypeVar("ValueT")

_SLOWEST_BYTES_S = 16 * 1024
_BLOCK_BYTES = 64 << 20  # what is fetched by one request
_PAGES = 300  # a listing is many requests, and may take as many times longer
# Stores that show an object once all of it is there; what is a file system behind fsspec would show half a file.
_WHOLE = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"}
# What the packages behind fsspec let through that is no OSError: module -> base classes.
_CLIENT_ERRORS = {
    "aiohttp": ("ClientError",),
    "azure.core.exceptions": ("AzureError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "gcsfs.retry": ("HttpError",),
}
# Of those, by name, what another try may not meet; the others are a wrong setting.
_PASSING_ERRORS = {
    "aiohttp": {"ClientError"},
    "azure": {"ServiceRequestError", "ServiceResponseError", "IncompleteReadError"},
    "botocore": {"HTTPClientError", "ConnectionError", "IncompleteReadError", "ResponseParserError"}
    | {"ChecksumError", "FlexibleChecksumError"},
}
_DEFINITE = {errno.EINVAL, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOSYS, errno.ENOTDIR}
_DEFINITE |= {errno.EISDIR, errno.ENAMETOOLONG, errno.EMSGSIZE, errno.ENOTEMPTY, errno.EFBIG}
_DEFINITE |= {getattr(errno, "EREMCHG", errno.EINVAL)}  # of s3fs, for what lies elsewhere; Linux alone has it
_PASSING_CODES = {"IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "RequestTimeout"}
_PASSING_STATUS = {408, 425, 429}


class TooLong(OSError):
    """A file of `num_bytes`, or of more than that, where fewer were expected."""

    def __init__(self, num_bytes: int, url: str):
        super().__init__(errno.EFBIG, f"it has {num_bytes} bytes or more", url)
        self.num_bytes = num_bytes


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


def find(filesystem: Any, path: str, url: str) -> list[str]:
    """Every object below a folder, by its name from there."""

    def ask(wait_s: float) -> list[str]:
        filesystem.invalidate_cache()
        found: list[str] = list(_call(filesystem, "find", path, limit_s=_PAGES * wait_s))
        return found

    begin = len(path.rstrip("/")) + 1
    return sorted(name[begin:] for name in tried(url, ask))


def tried(url: str, ask: Callable[[float], ValueT], *, of_none: bool = True) -> ValueT:
    """What `ask` gives when it is told for how many seconds nothing may come; asked again as the module says.

    `of_none` passes a FileNotFoundError on as it is; without it, it is told like any other fault.
    """
    limit_s = timeout_s()
    pause_s = limit_s / 60
    waited_s = 0.0
    for number in itertools.count(1):
        try:
            return ask(limit_s / 3)
        except _caught() as error:
            if isinstance(error, TooLong) or (isinstance(error, FileNotFoundError) and of_none):
                raise
            waited_s += pause_s + (limit_s / 3 if isinstance(error, TimeoutError) else 0.0)
            if not _may_pass(error) or waited_s >= limit_s:
                raise _fault(error, url, number, limit_s) from error
        time.sleep(pause_s * random.uniform(0.5, 1))  # or all who met one fault meet again
        pause_s *= 2
    raise AssertionError


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


def _caught() -> tuple[type[Exception], ...]:
    """What clients raise, of those that are loaded; a KeyError is a header that s3fs takes for granted."""
    loaded = [module for module in _CLIENT_ERRORS if module in sys.modules]
    of_clients = [getattr(sys.modules[module], name) for module in loaded for name in _CLIENT_ERRORS[module]]
    return (OSError, KeyError, *of_clients)


def _may_pass(error: Exception) -> bool:
    status = getattr(error, "code", None) or getattr(error, "status_code", None)
    if isinstance(status, int | str) and str(status).isdecimal():
        return int(status) in _PASSING_STATUS or int(status) >= 500
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    if isinstance(response, dict) and response.get("Error", {}).get("Code") in _PASSING_CODES:
        return True
    if isinstance(error, OSError) and not _is_of_client(error):
        return error.errno not in _DEFINITE and not isinstance(error, FileNotFoundError | PermissionError)
    if isinstance(error, KeyError):
        return True
    names = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
    return any((package, name) in names for package, passing in _PASSING_ERRORS.items() for name in passing)


def _is_of_client(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in _PASSING_ERRORS


def _fault(error: Exception, url: str, number: int, limit_s: float) -> OSError:
    text = getattr(error, "strerror", None) or str(error)
    if isinstance(error, TimeoutError):
        text = f"nothing, or next to nothing, came for {limit_s / 3:g} s"
    elif isinstance(error, KeyError):
        text = f"its server's answer lacks {error}"
    elif not isinstance(error, OSError):
        text = f"{type(error).__name__}: {text}"
    text = printable(" ".join(text.split()))[:300].rstrip(".")
    if number > 1:
        text += f" ({number} times; {TIMEOUT_VARIABLE}={10 * limit_s:g} waits longer)"
    kind = next((k for k in (PermissionError, FileNotFoundError) if isinstance(error, k)), OSError)
    return kind((isinstance(error, OSError) and error.errno) or errno.EIO, text, url)
