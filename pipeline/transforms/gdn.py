"""Generalized divisive normalisation (Ballé, Laparra & Simoncelli 2016, arXiv:1511.06281).

    y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2)        at every position, i and j channels

and its inverse, as the decoder has it, which multiplies by the root where this divides by it.

beta and gamma may not be negative, lest the root have none to take. They are stored as square roots, shifted by a
pedestal so that a stored zero still has a gradient, and are squared above a lower bound on their way in. Names and
stored values are those of CompressAI's layer: its weights can be loaded.
"""

# B batch, C channels, H, W grid

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import conv2d

PEDESTAL = 2.0**-36
SMALLEST_BETA = 1e-6
_FIRST_GAMMA = 0.1


class GDN(nn.Module):
    """Begins as the paper's does: beta one, gamma a tenth of the identity. Every channel then sees itself alone."""

    def __init__(self, channels: int, *, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(_stored(torch.ones(channels)))
        self.gamma = nn.Parameter(_stored(_FIRST_GAMMA * torch.eye(channels)))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """float [B,C,H,W] -> float [B,C,H,W]."""
        beta_C, gamma_CC = self.used()
        energy_BCHW = conv2d(x_BCHW**2, gamma_CC[:, :, None, None], beta_C)
        return x_BCHW * (torch.sqrt(energy_BCHW) if self.inverse else torch.rsqrt(energy_BCHW))

    def used(self) -> tuple[Tensor, Tensor]:
        """beta [C] and gamma [C,C] of the formula, as they follow from what is stored."""
        return _used(self.beta, SMALLEST_BETA), _used(self.gamma, 0.0)


def bound(smallest: float) -> float:
    """What a stored value is at least, so that the used one is no smaller than `smallest`."""
    return math.sqrt(smallest + PEDESTAL)


class _AtLeast(Function):
    """max(x, least), whose gradient still reaches a value below if it leads back up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, least: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.least = least
        return x.clamp_min(least)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradient * ((x >= ctx.least) | (gradient < 0)), None


def _stored(values: Tensor) -> Tensor:
    return (values + PEDESTAL).sqrt()


def _used(stored: Tensor, smallest: float) -> Tensor:
    bounded: Tensor = _AtLeast.apply(stored, bound(smallest))  # type: ignore[no-untyped-call]
    return bounded**2 - PEDESTAL
