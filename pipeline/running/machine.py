"""What this machine has that matters here: cores and their instructions, memory, GPUs, disk, versions, extras."""

import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

from ci2p_cache.extras import EXTRAS
from ci2p_cache.free_memory import free_memory_bytes
from ci2p_cache.printable import counted
from pipeline.running.cores import num_cores

_PACKAGES = ("ci2p", "torch", "timm", "lightning-fabric", "numpy", "zarr", "numcodecs", "webdataset", "pillow")
_SHARED_MEMORY = Path("/dev/shm")
_GIB = 1 << 30


@dataclass(frozen=True)
class Machine:
    """All sizes in bytes; None where the system does not say."""

    system: str
    python: str
    packages: dict[str, str | None]
    """Name -> version, None of one that is missing."""
    processor: str
    num_cores: int
    """That this process may use."""
    instructions: str
    """As torch names what it makes use of: AVX2, AVX512 ..."""
    has_bfloat16: bool
    """In instructions; without them bfloat16 works, many times slower."""
    free_memory: int
    shared_memory: int | None
    """Free in /dev/shm, through which worker processes hand over images."""
    gpus: dict[str, int]
    """Name and number -> memory."""
    free_disk: int
    """Where this command was called."""
    extras: dict[str, str | None]
    """Name -> version of its package, None where it is not installed."""
    has_compiler: bool
    """For --compile on a CPU."""


def look_at_machine() -> Machine:
    """Takes seconds, for torch has to be imported."""
    from pipeline.running.bfloat16 import lacks_bfloat16

    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return Machine(
        system=platform.platform(),
        python=sys.version.split()[0],
        packages={package: _version(package) for package in _PACKAGES},
        processor=_processor(),
        num_cores=num_cores(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        has_bfloat16=not lacks_bfloat16(torch.device("cpu")),
        free_memory=free_memory_bytes(),
        shared_memory=shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.exists() else None,
        gpus={f"{gpu.name} {number}": gpu.total_memory for number, gpu in enumerate(gpus)},
        free_disk=shutil.disk_usage(Path.cwd()).free,
        extras={name: _version(package.partition(">")[0]) for name, package in EXTRAS.items()},
        has_compiler=any(map(shutil.which, ("c++", "g++", "clang++"))),
    )


def describe_machine(machine: Machine) -> list[str]:
    """A line for each thing, and what to do about what is missing."""
    packages = [f"{name} {version or 'missing'}" for name, version in machine.packages.items()]
    bfloat16 = "bfloat16" if machine.has_bfloat16 else "no bfloat16 (keep --precision float32)"
    lines = [
        f"system     {machine.system}, Python {machine.python}",
        f"packages   {', '.join(packages)}",
        f"processor  {machine.processor}, {counted(machine.num_cores, 'core')}, {machine.instructions}, {bfloat16}",
        f"memory     {_gib(machine.free_memory)} free, {_gib(machine.shared_memory)} in /dev/shm",
        f"disk       {_gib(machine.free_disk)} free here",
        "compiler   " + ("there, for --compile" if machine.has_compiler else "none: leave --compile out on a CPU"),
    ]
    if machine.gpus:
        lines += [f"GPU        {name}, {_gib(memory)}" for name, memory in machine.gpus.items()]
    else:
        lines.append("GPU        none that torch finds")
    for name, version in machine.extras.items():
        way = version or f"not installed; pip install '{EXTRAS[name]}' if you need it"
        lines.append(f"extra      {name}: {way}")
    return lines


def name_device(device: str) -> str:
    """What a torch device is, for people: "AMD EPYC 7763, 2 cores, AVX2" or "NVIDIA H200"."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {counted(num_cores(), 'core')}, {torch.backends.cpu.get_cpu_capability()}"


def _gib(count: int | None) -> str:
    return "unknown" if count is None else f"{count / _GIB:.1f} GiB"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown version" if find_spec(package.replace("-", "_")) else None


def _processor() -> str:
    """Its name, which Python itself leaves out on Linux."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
