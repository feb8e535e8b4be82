"""Neighbours: the processes of one machine that do the same work, and memory that they share."""

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Neighbours:
    """This process among those of its machine."""

    index: int  # of this one
    count: int
    exchange: Callable[[Any], list[Any]]  # what each of them has to say, by index; all call it, equally often


def shared_memory(num_bytes: int, neighbours: Neighbours) -> mmap.mmap | None:
    """The same `num_bytes` zeros for all of them; None, for all, where there is no such thing.

    They have no name, and no limit but the memory's own (/dev/shm is 64 MB in a container): one process makes them and
    the others open them through it. They are gone with the last process, however that ends.
    """
    descriptor, made = None, None
    if neighbours.index == 0 and hasattr(os, "memfd_create"):
        try:
            descriptor = os.memfd_create("ci2p")
            os.ftruncate(descriptor, num_bytes)
            made = (f"/proc/{os.getpid()}/fd/{descriptor}", os.fstat(descriptor).st_ino)
        except OSError:  # a system that counts what is asked for, not what is used
            pass
    found: tuple[str, int] | None = neighbours.exchange(made)[0]
    opened = None if found is None else _open(found[0], found[1], num_bytes)
    is_shared = all(neighbours.exchange(opened is not None))
    if descriptor is not None:
        os.close(descriptor)
    return opened if is_shared else None


def _open(path: str, inode: int, num_bytes: int) -> mmap.mmap | None:
    """None where another process's files cannot be opened, or in another container the path is something else."""
    try:
        with Path(path).open("r+b", buffering=0) as file:
            return mmap.mmap(file.fileno(), num_bytes) if os.fstat(file.fileno()).st_ino == inode else None
    except (OSError, ValueError):
        return None
