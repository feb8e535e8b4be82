"""What web servers answer, over fsspec's HTTP file system: waited for, measured and bounded, whatever the server does.

A try ends when nothing, or less than 1 KiB/s, has come for a third of CI2P_NETWORK_TIMEOUT (30 s). What may pass
(silence, a broken connection, a body that is cut short, a status of 408, 429 or 5xx) is tried again up to three times,
after a pause that doubles, until that time is used up. Every fault is an OSError whose `strerror` tells it in one line.
"""

import asyncio
import errno
import html
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import unquote, urljoin

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from fsspec.asyn import sync

from ci2p_cache.network_timeout import TIMEOUT_VARIABLE, timeout_s
from ci2p_cache.printable import printable
from ci2p_cache.remote_files import TooLong

ValueT = TypeVar("ValueT")

_TRIES = 4
_SLOWEST_BYTES_S = 1024
_MOST_REDIRECTS = 10
_MOST_LISTING_BYTES = 1 << 24
_MISSING = (400, 404, 410, 414)  # 400 and 414 for names that a server will not have
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_LINK = re.compile(r"""<a\s[^>]*?href\s*=\s*["']([^"'#?]+)["'#?]""", re.IGNORECASE)


class GivenUp(OSError):
    """A fault that each of several tries met."""


class _Passing(OSError):
    """A fault that another try may not meet; `waited_s` is how long nothing came."""

    def __init__(self, fault: str, url: str, waited_s: float = 0.0):
        super().__init__(errno.EIO, fault, url)
        self.waited_s = waited_s


@dataclass(frozen=True)
class _Head:
    size: int | None  # of the whole file; None when the server does not say
    body: bytes


def get(filesystem: Any, url: str, most_bytes: int) -> bytes:
    """A whole file. Raises TooLong beyond `most_bytes`, FileNotFoundError, PermissionError, or another OSError."""
    return _tried(filesystem, url, lambda wait_s: _ask(filesystem, url, wait_s, most_bytes=most_bytes)).body


def get_range(filesystem: Any, url: str, begin: int, end: int) -> bytes:
    """Bytes `begin` to `end` of a file, fewer at its end. Raises OSError, also when the server gives no ranges."""
    if begin >= end:
        return b""
    return _tried(filesystem, url, lambda wait_s: _ask(filesystem, url, wait_s, span=(begin, end))).body


def size(filesystem: Any, url: str) -> int | None:
    """Of a file, in bytes; None when the server does not say. Raises OSError, FileNotFoundError for no such file."""
    try:
        found = _tried(filesystem, url, lambda wait_s: _ask(filesystem, url, wait_s, method="HEAD")).size
    except GivenUp:
        raise
    except OSError:
        found = None  # there are servers that answer nothing but GET
    if found is None:
        found = _tried(filesystem, url, lambda wait_s: _ask(filesystem, url, wait_s, most_bytes=0)).size
    return found


def entries(filesystem: Any, url: str) -> tuple[list[str], list[str]]:
    """Names of the folders and the files that a server's page of a folder links to. Raises OSError."""
    folder = url.rstrip("/") + "/"
    page = get(filesystem, folder, _MOST_LISTING_BYTES).decode("utf-8", errors="replace")
    found: tuple[list[str], list[str]] = ([], [])
    for link in _LINK.findall(page):
        target = urljoin(folder, html.unescape(link))
        name = target.removesuffix("/").rpartition("/")[2]
        if name and unquote(target.removesuffix("/")) == unquote(folder + name):
            found[0 if target.endswith("/") else 1].append(name)
    return found


def _tried(filesystem: Any, url: str, ask: Callable[[float], Coroutine[Any, Any, _Head]]) -> _Head:
    limit_s = timeout_s()
    pause_s = limit_s / 60
    waited_s = 0.0
    for number in range(1, _TRIES + 1):
        try:
            head: _Head = sync(filesystem.loop, ask, limit_s / 3)
            return head
        except _Passing as fault:
            waited_s += fault.waited_s + pause_s
            if number == _TRIES or waited_s >= limit_s:
                times = f" ({number} times)" if number > 1 else ""
                hint = f"; {TIMEOUT_VARIABLE}={10 * limit_s:g} waits longer" if fault.waited_s else ""
                raise GivenUp(errno.EIO, f"{fault.strerror}{times}{hint}", url) from fault
        except aiohttp.InvalidURL as error:
            raise ValueError(f"{url} is no URL; give one such as https://example.org/cat.jpg") from error
        time.sleep(pause_s)
        pause_s *= 2
    raise AssertionError


async def _ask(
    filesystem: Any,
    url: str,
    wait_s: float,
    *,
    method: str = "GET",
    most_bytes: int = 0,
    span: tuple[int, int] | None = None,
) -> _Head:
    """One try; without a span, `most_bytes=0` reads nothing but the header."""
    options = dict(filesystem.kwargs)
    headers = {"User-Agent": "ci2p", "Accept-Encoding": "identity", **options.pop("headers", {})}
    if span is not None:
        headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
        most_bytes = span[1] - span[0]
    options |= {"headers": headers, "max_redirects": _MOST_REDIRECTS, "timeout": aiohttp.ClientTimeout(total=None)}
    session = await filesystem.set_session()
    answer = None
    try:
        async with asyncio.timeout(wait_s):
            answer = await session.request(method, filesystem.encode_url(url), allow_redirects=True, **options)
        _check_status(answer, url, span, may_pass=method != "HEAD")
        size_bytes = _whole_size(answer)
        if method == "HEAD" or not most_bytes:
            return _Head(size_bytes, b"")
        if span is None and size_bytes is not None and size_bytes > most_bytes:
            raise TooLong(size_bytes, url)
        is_cut = span is not None and answer.status != HTTPStatus.PARTIAL_CONTENT  # the whole file, of which it begins
        return _Head(size_bytes, await _body(answer, url, wait_s, most_bytes, is_cut))
    except TimeoutError as error:
        raise _Passing(f"the server said nothing for {wait_s:g} s", url, wait_s) from error
    except aiohttp.TooManyRedirects as error:
        raise OSError(errno.ELOOP, f"it leads on and on, to {_MOST_REDIRECTS} other addresses", url) from error
    except aiohttp.ClientConnectorError as error:
        raise _Passing(f"no connection: {_brief(error.os_error.strerror or error)}", url) from error
    except (aiohttp.ClientResponseError, HttpProcessingError) as error:
        raise OSError(errno.EIO, f"the answer is no sound HTTP: {_brief(error.message)}", url) from error
    except (aiohttp.ClientError, ConnectionError) as error:
        if "Redirect" in type(error).__name__:  # classes of their own in newer versions alone
            raise OSError(errno.EIO, f"it leads to what is no web address, {_brief(error)}", url) from error
        if isinstance(error, aiohttp.InvalidURL):
            raise
        is_cut = isinstance(error, aiohttp.ClientPayloadError)
        fault = "the answer ended too early" if is_cut else "the connection broke"
        raise _Passing(f"{fault}: {_brief(error)}", url) from error
    finally:
        if answer is not None:
            answer.close()  # which ends the connection unless the answer was read to its end


async def _body(answer: aiohttp.ClientResponse, url: str, wait_s: float, most_bytes: int, is_cut: bool) -> bytes:
    body = bytearray()
    while True:
        begin = len(body)
        try:
            async with asyncio.timeout(wait_s):
                while len(body) <= begin + wait_s * _SLOWEST_BYTES_S:
                    data = await answer.content.readany()
                    body += data
                    if len(body) > most_bytes:
                        if is_cut:
                            return bytes(body[:most_bytes])
                        raise TooLong(len(body), url)
                    if not data:
                        return bytes(body)
        except TimeoutError as error:
            fault = f"{len(body) - begin} bytes came in {wait_s:g} s, after {begin} before them"
            raise _Passing(fault, url, wait_s) from error


def _check_status(answer: aiohttp.ClientResponse, url: str, span: tuple[int, int] | None, may_pass: bool) -> None:
    status = answer.status
    fault = f"the server answered {status} {_brief(answer.reason or '')}".rstrip()
    if status in _MISSING:
        raise FileNotFoundError(errno.ENOENT, fault, url)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise PermissionError(errno.EACCES, fault, url)
    if status in _PASSING and may_pass:
        raise _Passing(fault, url)
    if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        raise OSError(errno.EIO, fault, url)
    if span is None:
        if status == HTTPStatus.PARTIAL_CONTENT:
            raise OSError(errno.EIO, "the server answered with a part of the file, for which nobody asked", url)
    elif status == HTTPStatus.PARTIAL_CONTENT:
        begins = re.match(r"bytes (\d{1,19})-", answer.headers.get("Content-Range", ""))
        if begins is not None and int(begins[1]) != span[0]:
            raise OSError(errno.EIO, f"the server answered from byte {int(begins[1])} on, not from {span[0]}", url)
    elif span[0]:
        raise OSError(errno.EIO, "its server gives whole files alone, no ranges of bytes; copy it to a disk", url)


def _whole_size(answer: aiohttp.ClientResponse) -> int | None:
    if answer.headers.get("Content-Encoding", "identity").strip() not in ("", "identity"):
        return None
    if answer.status == HTTPStatus.PARTIAL_CONTENT:
        total = re.search(r"/(\d{1,19})$", answer.headers.get("Content-Range", ""))
        return int(total[1]) if total else None
    try:
        length = answer.content_length
    except ValueError:
        return None
    return length if length is not None and length >= 0 else None


def _brief(what: object) -> str:
    """What a server or the system said, in a line of bounded length."""
    text = printable(" ".join(str(what)[:1000].split()))
    return text if len(text) <= 100 else f"{text[:100]}..."
