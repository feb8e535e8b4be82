"""What the long benchmarks share: running `ci2p` as a user does, and saying on what machine."""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ci2p_cache.printable import counted

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def ci2p(*arguments: object, report: Path, threads: int) -> dict[str, Any]:
    """What `ci2p ARGUMENTS --json REPORT` measured; an earlier run's report is taken as it is. Ends where it fails."""
    if not report.exists():
        command = [sys.executable, "-m", "ci2p", *map(str, arguments), "--json", str(report)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stderr}")
    measured: dict[str, Any] = json.loads(report.read_text(), object_hook=_without_folders)
    return measured


def _without_folders(found: dict[str, Any]) -> dict[str, Any]:
    """Where caches and runs lie is of this machine alone."""
    return {key: Path(value).name if key in ("out", "run") else value for key, value in found.items()}


def set_options(settings: Sequence[str]) -> list[str]:
    """`--set KEY=VALUE` for each of them."""
    return [word for each in settings for word in ("--set", each)]


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def machine() -> str:
    """The processor and its vector instructions, the GPU if there is one, and torch's version."""
    named = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    processor = f"{named[0] if named else platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"
    return f"{counted(cores(), 'core')} of {processor}{gpu}, torch {torch.__version__}"


def command_line() -> str:
    """How this benchmark was called, folders by their last name."""
    arguments = [re.sub(r"(^|=)/\S*/", r"\1", argument) for argument in sys.argv[1:]]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *arguments])
