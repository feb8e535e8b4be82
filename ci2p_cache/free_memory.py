"""Memory that this process may still take: what the system leaves, and every limit that a container or scheduler set.

A limit stands in a control group (cgroup), which is a folder: of version 2 with memory.max in it, of version 1 with
memory.limit_in_bytes, and the limits of all folders above it hold as well. Slurm nests job, step and task.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_KEPT_SHARE = 0.5  # of what is free
_ROOT = Path("/")
_ESCAPE = re.compile(r"\\([0-7]{3})")  # mountinfo's way to write a blank


@dataclass(frozen=True)
class _Files:
    """What a version of cgroups calls them."""

    limit: str
    used: str
    reclaimable: tuple[str, ...]  # in memory.stat: counted as used, and given up when memory is asked for


_VERSIONS = {
    "cgroup2": _Files("memory.max", "memory.current", ("inactive_file", "active_file", "slab_reclaimable")),
    "cgroup": _Files("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
}


def resident_limit_bytes(*, is_shared: bool = False) -> float:
    """How much data this process may keep in memory: its share, among those of the machine, of half of what is free.

    The whole half where the data are one copy that all of them read.
    """
    sharers = 1 if is_shared else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return _KEPT_SHARE * free_memory_bytes() / sharers


def free_memory_bytes(root: Path = _ROOT) -> int:
    """Bytes; `root` is where /proc and /sys are looked for."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    return max(0, min([free, *_left_by_groups(root)]))


def _left_by_groups(root: Path) -> Iterator[int]:
    """What each group that this process is in leaves to it, where it has a limit."""
    for folder, files in _groups(root):
        limit, used = (_number(folder / name) for name in (files.limit, files.used))
        if limit is None or used is None:
            continue
        stat = dict(line.split()[:2] for line in _lines(folder / "memory.stat") if " " in line)
        yield limit - used + sum(int(stat.get(name, 0)) for name in files.reclaimable)


def _groups(root: Path) -> Iterator[tuple[Path, _Files]]:
    """The folders of this process's own groups, and of all above them that can be seen from here."""
    own = {}
    for line in _lines(root / "proc/self/cgroup"):  # 4:memory:/slurm/job_7, and of version 2 0::/user.slice
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            own["cgroup2"] = path
        elif "memory" in controllers.split(","):
            own["cgroup"] = path
    for kind, mount, shown in _mounts(root):
        if kind not in own:
            continue
        top = root / mount.lstrip("/")
        # A container shows a part of the tree: all that is seen of a group elsewhere is where it begins.
        group = PurePosixPath(own[kind])
        is_below = group.is_relative_to(shown) and ".." not in group.parts
        below = group.relative_to(shown) if is_below else PurePosixPath()
        folder = top / below
        while True:
            yield folder, _VERSIONS[kind]
            if folder == top:
                break
            folder = folder.parent


def _mounts(root: Path) -> Iterator[tuple[str, str, str]]:
    """Of each mounted tree of groups that has to do with memory: version, where it lies, which part of it that is."""
    for line in _lines(root / "proc/self/mountinfo"):
        fields, _, source = line.partition(" - ")
        shown, mount = (_ESCAPE.sub(lambda found: chr(int(found[1], 8)), field) for field in fields.split()[3:5])
        kind, *_, options = source.split()
        if kind == "cgroup2" or (kind == "cgroup" and "memory" in options.split(",")):
            yield kind, mount, shown


def _lines(path: Path) -> list[str]:
    """None where the file is not, or not for this process."""
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """None also where there is no limit: version 2 says "max", version 1 more than any machine has."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None
