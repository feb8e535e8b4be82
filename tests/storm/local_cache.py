"""Storms over the local disk cache: processes that read through it at once are killed, and the bound is watched."""

import contextlib
import fcntl
import multiprocessing
import os
import random
import signal
import time
from functools import partial
from pathlib import Path

from ci2p_cache.disk_cache import DiskCache, LocalDisk
from ci2p_cache.seals import seal_of
from tests.storm.kind import Broken, Kind

_SPLITS = ("a" * 16, "b" * 16)
_NUM_PROCESSES = 4


def _prepare(home: Path) -> list[bytes]:
    return [random.Random(number).randbytes(3_000 + 500 * (number % 7)) for number in range(30)]


def _attempt(files: list[bytes], rng: random.Random, scratch: Path) -> str:
    disk = LocalDisk(str(scratch), int(rng.uniform(0.2, 1.3) * sum(map(len, files))))
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_read, args=(files, disk, rng.choice(_SPLITS), rng.random()))
        for _ in range(_NUM_PROCESSES)
    ]
    for process in processes:
        process.start()
    kills = {process: time.monotonic() + rng.uniform(0.01, 0.3) for process in processes[: rng.randint(0, 3)]}
    while any(process.is_alive() for process in processes):
        time.sleep(0.002)
        used = _used(scratch)
        if used > disk.most_bytes:
            raise Broken(f"{used} bytes in a cache of {disk.most_bytes}")
        for process, due in kills.items():
            if time.monotonic() > due:
                process.kill()
    num_killed = 0
    for process in processes:
        process.join()
        num_killed += process.exitcode == -signal.SIGKILL
        if process.exitcode not in (0, -signal.SIGKILL):
            raise Broken(f"a process read what was not written, or ended with {process.exitcode}")
    for split in _SPLITS:
        _read_all(files, DiskCache(disk, split), random.Random(0))
        if list((scratch / split).glob(".*.tmp")):
            raise Broken("what a killed process was writing was left behind")
    return f"read as written, {num_killed} killed"


def _read(files: list[bytes], disk: LocalDisk, split: str, seed: float) -> None:
    kept, rng = DiskCache(disk, split), random.Random(seed)
    for _ in range(3):
        _read_all(files, kept, rng)
    os._exit(0)  # the tests' own threads and files are none of this process's


def _read_all(files: list[bytes], kept: DiskCache, rng: random.Random) -> None:
    """In any order, the last three held."""
    held: list[tuple[memoryview, bytes]] = []
    for data in rng.sample(files, len(files)):
        held = [*held[-2:], (kept.get(seal_of(data), "memory://x/y", partial(_fetch, data)), data)]
        if any(ours != theirs for ours, theirs in held):
            raise Broken("other bytes")


def _fetch(data: bytes) -> memoryview:
    time.sleep(0.001)
    return memoryview(data)


def _used(folder: Path) -> int:
    """Bytes of what is kept or being written, while nothing makes room."""
    sizes: dict[Path, int] = {}
    with contextlib.suppress(FileNotFoundError), (folder / "used").open("rb") as used:
        fcntl.flock(used, fcntl.LOCK_EX)
        for path in list(folder.glob("*/*")):
            for each in (path, path.parent / path.name[1:65]):  # it may take its name just now
                with contextlib.suppress(FileNotFoundError):
                    sizes[each] = each.stat().st_size
                    break
    return sum(sizes.values())


LOCAL_CACHE_KILLS = Kind(
    "local-cache-kills",
    "up to three SIGKILLs at random moments among four processes that read two splits through one `--cache-dir`",
    "the others read what was written; the bound holds at every moment; nothing is left behind",
    _prepare,
    _attempt,
)
