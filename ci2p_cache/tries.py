"""Asking the clients of object stores again, with a bound.

What may pass (a status of 500 or 503, silence, a broken connection) is asked for again after a pause that doubles,
until CI2P_NETWORK_TIMEOUT (30 s) is used up by silence and pauses: seven times, where nothing is silent.
"""

import errno
import itertools
import random
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from ci2p_cache.network_timeout import TIMEOUT_VARIABLE, timeout_s
from ci2p_cache.printable import printable

ValueT = TypeVar("ValueT")

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
            waited_s += pause_s + (limit_s / 3 if _is_silence(error) else 0.0)
            if not _may_pass(error) or waited_s >= limit_s:
                raise _fault(error, url, number, limit_s) from error
        time.sleep(pause_s * random.uniform(0.5, 1))  # or all who met one fault meet again
        pause_s *= 2
    raise AssertionError


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


def _is_silence(error: Exception) -> bool:
    return isinstance(error, TimeoutError) or type(error).__name__ in ("ReadTimeoutError", "ConnectTimeoutError")


def _is_of_client(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in _PASSING_ERRORS


def _fault(error: Exception, url: str, number: int, limit_s: float) -> OSError:
    text = getattr(error, "strerror", None) or str(error)
    if _is_silence(error):
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
