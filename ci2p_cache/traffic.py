"""Traffic: what this process has fetched of remote caches, and how long it waited for it."""

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Traffic:
    """Since the process began; the difference of two says what lies between them."""

    num_files: int = 0
    num_bytes: int = 0
    num_stalls: int = 0
    """How often a shard was asked for that was not there yet."""
    stalled_s: float = 0.0
    """How long for, over all threads that decode."""

    def __sub__(self, earlier: "Traffic") -> "Traffic":
        return Traffic(
            self.num_files - earlier.num_files,
            self.num_bytes - earlier.num_bytes,
            self.num_stalls - earlier.num_stalls,
            self.stalled_s - earlier.stalled_s,
        )


_lock = threading.Lock()
_so_far = Traffic()


def traffic() -> Traffic:
    """So far."""
    return _so_far


def count_fetched(num_bytes: int) -> None:
    """A file has come."""
    _add(Traffic(1, num_bytes))


def count_stall(seconds: float) -> None:
    """A shard was waited for."""
    _add(Traffic(num_stalls=1, stalled_s=seconds))


def _add(more: Traffic) -> None:
    global _so_far
    with _lock:
        _so_far = _so_far - (Traffic() - more)
