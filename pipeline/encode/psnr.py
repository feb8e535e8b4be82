"""Peak signal-to-noise ratio: how near a picture is to its original."""

import math

import torch


def psnr(ours: torch.Tensor, original: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pixels in [0, 255] of one shape; infinite when they are equal."""
    error = float((ours.double() - original.double()).square().mean())
    return 10 * math.log10(255**2 / error) if error else math.inf
