"""A process by a name that no other ever has, and whether it still runs: for files that it alone may touch."""

import hashlib
import os
import re
import socket
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

_LONGEST_HOST = 40  # characters, in names of files
_PROC = Path("/proc")
_STATE, _START = 0, 19  # of /proc/PID/stat, behind the name
_TEXT = re.compile(r"(.+)\.([0-9]{1,10})\.([0-9]*)-([0-9a-f]{8})", re.DOTALL)
_ENDED = ("Z", "X")  # a zombie writes no more


@dataclass(frozen=True)
class Process:
    """A process of some machine."""

    host: str
    pid: int
    start: str
    """When it began, in the system's own ticks; empty where the system does not say."""
    kernel: str
    """Tells what the host's name does not: the boot, and the container whose numbers its pid is one of."""

    def __str__(self) -> str:
        """As a part of a file's name."""
        return f"{self.host}.{self.pid}.{self.start}-{self.kernel}"


def this_process() -> Process:
    """The one that asks."""
    return _process(os.getpid())


def parse_process(text: str) -> Process | None:
    """Of what `str` gave; None for another text."""
    found = _TEXT.fullmatch(text)
    return Process(found[1], int(found[2]), found[3], found[4]) if found else None


def state_of(process: Process) -> Literal["running", "gone", "unknown"]:
    """Whether a process still runs; unknown of another machine, an earlier boot or another container."""
    if (process.host, process.kernel) != (_host(), _kernel()):
        return "unknown"
    if sys.platform == "linux":
        return "running" if process.start and _start_of(process.pid) == process.start else "gone"
    try:
        os.kill(process.pid, 0)
    except (ProcessLookupError, OverflowError):
        return "gone"
    except PermissionError:
        pass
    return "running"


@lru_cache(maxsize=1)
def _process(pid: int) -> Process:
    return Process(_host(), pid, _start_of(pid), _kernel())


def _host() -> str:
    name = socket.gethostname()[:_LONGEST_HOST]
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name) or "localhost"


@lru_cache(maxsize=1)
def _kernel() -> str:
    parts = []
    try:
        parts.append((_PROC / "sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink(_PROC / "self/ns/pid"))  # noqa: PTH115  (not a path)
    except OSError:  # no Linux, or /proc is hidden
        parts.append("")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _start_of(pid: int) -> str:
    """Of a process of this machine that runs; empty of one that does not, or where there is no /proc."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[_STATE] in _ENDED else fields[_START]
