"""Control groups (cgroups): the folders in which a container or a scheduler has written what a process may use.

The limits of all folders above a process's own hold as well. Slurm nests job, step and task. Version 1 has a tree for
each controller (memory, cpu), version 2 one for all.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")
_ESCAPE = re.compile(r"\\([0-7]{3})")  # mountinfo's way to write a blank


def groups(controller: str, root: Path = ROOT) -> Iterator[tuple[Path, int]]:
    """The folders of this process's own groups, and of all above them that can be seen from here, with their version.

    `root` is where /proc and /sys are looked for.
    """
    own = {}
    for line in lines_of(root / "proc/self/cgroup"):  # 4:memory:/slurm/job_7, and of version 2 0::/user.slice
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            own[2] = path
        elif controller in controllers.split(","):
            own[1] = path
    for version, mount, shown in _mounts(controller, root):
        if version not in own:
            continue
        top = root / mount.lstrip("/")
        # A container shows a part of the tree: all that is seen of a group elsewhere is where it begins.
        group = PurePosixPath(own[version])
        is_below = group.is_relative_to(shown) and ".." not in group.parts
        below = group.relative_to(shown) if is_below else PurePosixPath()
        folder = top / below
        while True:
            yield folder, version
            if folder == top:
                break
            folder = folder.parent


def _mounts(controller: str, root: Path) -> Iterator[tuple[int, str, str]]:
    """Of each mounted tree that has to do with a controller: version, where it lies, which part of it that is."""
    for line in lines_of(root / "proc/self/mountinfo"):
        fields, _, source = line.partition(" - ")
        shown, mount = (_ESCAPE.sub(lambda found: chr(int(found[1], 8)), field) for field in fields.split()[3:5])
        kind, *_, options = source.split()
        if kind == "cgroup2" or (kind == "cgroup" and controller in options.split(",")):
            yield (2 if kind == "cgroup2" else 1), mount, shown


def lines_of(path: Path) -> list[str]:
    """No lines where the file is not, or not for this process."""
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
