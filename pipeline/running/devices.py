"""Devices by the names that `--device` gives them."""

import torch

from ci2p_cache.errors import InputError
from ci2p_cache.printable import counted


def named_device(device: str, *, auto_mps: bool = False) -> str:
    """cpu, mps, cuda or cuda:N for one of those or auto: CUDA where there is any, with `auto_mps` Apple's GPU, the CPU.

    Raises InputError for another name, and for a device that is not there.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if auto_mps and torch.backends.mps.is_available() else "cpu"
    kind, colon, number = device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise InputError(f"--device {device!r} is unknown; use auto, cpu, cuda, cuda:N or mps")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device mps: this machine has none; use --device auto")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        there = counted(torch.cuda.device_count(), "CUDA device")
        raise InputError(f"--device {device}: torch finds {there}; use --device auto")
    return device


def resolve_device(device: str | torch.device, local_rank: int = 0) -> torch.device:
    """The device of a name: one process of several on a machine takes the GPU of its local rank, unless one is named.

    Raises InputError as `named_device` does, and where there are more processes than GPUs.
    """
    target = torch.device(named_device(str(device)))
    if target.type != "cuda" or target.index is not None:
        return target
    if local_rank >= torch.cuda.device_count():
        raise InputError(
            f"--device {device}: more processes on this machine than its "
            f"{counted(torch.cuda.device_count(), 'GPU')}: process {local_rank} finds none; start as many as there are "
            "GPUs, or give --device cpu"
        )
    return torch.device("cuda", local_rank)
