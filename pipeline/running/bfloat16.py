"""bfloat16 on a processor that lacks it: torch computes it all the same, many times slower than float32."""

import logging

import torch

logger = logging.getLogger("ci2p")

# What torch calls x86 processors that have no instruction for it; it also names none that has.
_WITHOUT_IT = ("AVX2",)


def lacks_bfloat16(device: torch.device) -> bool:
    """Whether the device is a CPU that has no instructions for bfloat16."""
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in _WITHOUT_IT


def warn_of_slow_bfloat16(device: torch.device, precision: str) -> None:
    """Says so where `precision` is bfloat16 and the device lacks it.

    The result is the same as elsewhere, so it is no error: on an AVX2 core a product of two matrices of 1,024 x 1,024
    took 80 times as long as in float32.
    """
    if precision == "bfloat16" and lacks_bfloat16(device):
        logger.warning("this processor has no bfloat16 instructions: --precision float32 will be many times faster")
