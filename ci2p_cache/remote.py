"""Files of a remote cache: fetched whole, a bounded number of shards held, the next ones fetched in the background.

URL  --threads, as `prefetch` names them-->  shards held, the least recently used making way  --get-->  reader
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from ci2p_cache.errors import WorkError
from ci2p_cache.remote_files import TooLong, describe, read_file
from ci2p_cache.traffic import count_fetched, count_stall

ShardT = TypeVar("ShardT")

_FETCH_THREADS = 4


def fetch(url: str, num_bytes: int | None = None) -> memoryview:
    """The bytes of one file, which has `num_bytes` if given. Raises WorkError when it cannot be had so."""
    try:
        data = read_file(url, num_bytes=num_bytes)
        found = len(data)
    except OSError as error:
        if num_bytes is None or not isinstance(error, TooLong):
            raise cannot_read(url, error) from error
        found = error.num_bytes
    if num_bytes is not None and found != num_bytes:
        raise WorkError(
            f"{url} has {found} bytes instead of {num_bytes}; "
            "copy it there again, or run the same `ci2p encode` to restore it"
        )
    if "://" in url:
        count_fetched(found)
    return memoryview(data)


def cannot_read(url: str, error: OSError) -> WorkError:
    """What reading `url` raised, in one line."""
    reason = "it is missing" if isinstance(error, FileNotFoundError) and not error.strerror else describe(error)
    return WorkError(
        f"{url} cannot be read ({reason}); see that it is there and can be reached, and run the same command again"
    )


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
            is_there, begin = load.done(), time.monotonic()
            try:
                return load.result()
            except CancelledError:  # by another epoch, which was given up just now
                continue
            finally:
                if not is_there:
                    count_stall(time.monotonic() - begin)

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
