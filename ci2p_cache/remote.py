"""Files of a remote cache: fetched whole, a bounded number of shards held, the next ones fetched in the background.

URL  --threads, as `prefetch` names them-->  shards held, the least recently used making way  --get-->  reader
"""

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

import fsspec

from ci2p_cache.errors import WorkError

ShardT = TypeVar("ShardT")

_FETCH_THREADS = 4
# What the packages behind fsspec let through that is no OSError, a status of 500, say: module -> base class.
_CLIENT_ERRORS = {
    "aiohttp": "ClientError",
    "azure.core.exceptions": "AzureError",
    "botocore.exceptions": "BotoCoreError",
    "gcsfs.retry": "HttpError",
}


def client_errors() -> tuple[type[Exception], ...]:
    """Base classes of the errors of those clients that are loaded; one that is not loaded raises nothing."""
    return tuple(getattr(sys.modules[module], name) for module, name in _CLIENT_ERRORS.items() if module in sys.modules)


def _read_errors() -> tuple[type[Exception], ...]:
    return (OSError, *client_errors())


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Turns what reading `url` may raise into a WorkError of one line."""
    try:
        yield
    except _read_errors() as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "it is missing" if missing else " ".join(f"{type(error).__name__}: {error}".split())
        raise WorkError(
            f"{url} cannot be read ({reason}); see that it is there and can be reached, and run the same command again"
        ) from error


def fetch(url: str) -> memoryview:
    """The bytes of one file. Raises WorkError when it is missing or cannot be reached."""
    with reading(url):
        filesystem, path = fsspec.core.url_to_fs(url)  # fsspec keeps one per process and address
        return memoryview(filesystem.cat_file(path))


class RemoteShards(Generic[ShardT]):
    """At most `limit` shards at a time, loaded when asked for or ahead of that; safe to share among threads.

    The least recently named one makes way. A shard that is still being loaded when it makes way is let go of as soon
    as it is there, so that an epoch which is given up leaves a few more in memory for that long.
    """

    def __init__(self, load: Callable[[int], ShardT], limit: int):
        self._load = load
        self._limit = self._room = limit
        self._loads: OrderedDict[int, Future[ShardT]] = OrderedDict()  # the most recently named last
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_FETCH_THREADS, thread_name_prefix="ci2p-fetch")

    def get(self, number: int) -> ShardT:
        """One shard, waited for. Raises what loading it does; another call tries again."""
        while True:
            with self._lock:
                load = self._name(number)
                self._make_way()
            try:
                return load.result()
            except CancelledError:  # by another epoch, which was given up just now
                continue

    def prefetch(self, numbers: Sequence[int]) -> None:
        """Begins loading those that are not held, in this order. Holds all of them, be they more than `limit`."""
        with self._lock:
            for number in numbers:
                self._name(number)
            self._room = max(self._limit, len(numbers))
            self._make_way()

    def drop(self, number: int) -> None:
        """Lets go of one that will not be read again."""
        with self._lock:
            self._loads.pop(number, None)

    def cancel(self) -> None:
        """Forgets what `prefetch` asked for and no thread has begun."""
        with self._lock:
            for load in self._loads.values():
                load.cancel()

    @property
    def held(self) -> tuple[int, ...]:
        """The shards that are in memory or on their way."""
        with self._lock:
            return tuple(self._loads)

    def _name(self, number: int) -> Future[ShardT]:
        load = self._loads.pop(number, None)
        if load is None or load.cancelled() or (load.done() and load.exception() is not None):
            load = self._pool.submit(self._load, number)
        self._loads[number] = load
        return load

    def _make_way(self) -> None:
        while len(self._loads) > self._room:
            self._loads.popitem(last=False)
