"""A process that reads served files through a local disk cache; apart, for without torch it starts in a moment."""

import os
import random
import signal
from collections.abc import Mapping
from functools import partial
from typing import Any

from ci2p_cache import disk_cache
from ci2p_cache.disk_cache import DiskCache, LocalDisk
from ci2p_cache.remote import fetch
from ci2p_cache.seals import FileSeal


def read_files(url: str, seals: Mapping[str, FileSeal], folder: str, seed: int, kill: bool, results: Any) -> None:
    """All of the files, in an order of its own, puts name -> bytes. `kill`: dies while it puts the first one down."""
    if kill:
        disk_cache.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    kept = DiskCache(LocalDisk(folder, 10**9), "0123456789abcdef")
    found = {}
    for name in random.Random(seed).sample(sorted(seals), len(seals)):
        file = f"{url}/{name}"
        found[name] = kept.get(seals[name], file, partial(fetch, file, seals[name].num_bytes))
    results.put({name: bytes(data) for name, data in found.items()})
