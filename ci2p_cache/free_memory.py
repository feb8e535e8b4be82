"""Memory that this process may still take: what the system leaves, and every limit that a container or scheduler set.

A limit stands in a control group: memory.max in version 2, memory.limit_in_bytes in version 1.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ci2p_cache.cgroups import ROOT, groups, lines_of

_KEPT_SHARE = 0.5  # of what is free


@dataclass(frozen=True)
class _Files:
    """What a version of control groups calls them."""

    limit: str
    used: str
    reclaimable: tuple[str, ...]  # in memory.stat: counted as used, and given up when memory is asked for


_FILES = {
    2: _Files("memory.max", "memory.current", ("inactive_file", "active_file", "slab_reclaimable")),
    1: _Files("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
}


def resident_limit_bytes(*, is_shared: bool = False) -> float:
    """How much data this process may keep in memory: its share, among those of the machine, of half of what is free.

    The whole half where the data are one copy that all of them read.
    """
    sharers = 1 if is_shared else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return _KEPT_SHARE * free_memory_bytes() / sharers


def free_memory_bytes(root: Path = ROOT) -> int:
    """Bytes; `root` is where /proc and /sys are looked for."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in lines_of(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    return max(0, min([free, *_left_by_groups(root)]))


def _left_by_groups(root: Path) -> Iterator[int]:
    """What each group that this process is in leaves to it, where it has a limit."""
    for folder, version in groups("memory", root):
        files = _FILES[version]
        limit, used = (_number(folder / name) for name in (files.limit, files.used))
        if limit is None or used is None:
            continue
        stat = dict(line.split()[:2] for line in lines_of(folder / "memory.stat") if " " in line)
        yield limit - used + sum(int(stat.get(name, 0)) for name in files.reclaimable)


def _number(path: Path) -> int | None:
    """None also where there is no limit: version 2 says "max", version 1 more than any machine has."""
    text = "".join(lines_of(path)).strip()
    return int(text) if text.isdigit() else None
