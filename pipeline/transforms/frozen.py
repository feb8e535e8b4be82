"""The analysis transform for use alone: as `analysis`, to the last bit, with all that its weights decide computed once.

In bfloat16 everything is: torch's autocast would take squares and roots in float32 on a GPU, and for that write and
read each value of a normalisation 54 bytes' worth in place of 18 (float32: 36). On a CPU it does as this does.
"""

# B batch, C channels, H, W grid

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from pipeline.transforms.gdn import GDN


class FrozenGDN(nn.Module):
    """`GDN` with beta and gamma as the formula has them; not the inverse."""

    def __init__(self, layer: GDN, dtype: torch.dtype) -> None:
        super().__init__()
        assert not layer.inverse
        with torch.no_grad():
            beta_C, gamma_CC = layer.used()
        self.beta = nn.Parameter(beta_C.to(dtype), requires_grad=False)
        self.gamma = nn.Parameter(gamma_CC.to(dtype), requires_grad=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B,C,H,W] -> [B,C,H,W], in the layer's dtype."""
        energy_BCHW = conv2d(x_BCHW * x_BCHW, self.gamma[:, :, None, None], self.beta)
        return energy_BCHW.rsqrt_().mul_(x_BCHW)


def freeze(transform: nn.Module, dtype: torch.dtype) -> nn.Sequential:
    """A transform of convolutions and GDNs -> the same function, from and to values of `dtype`, without gradients."""
    layers: list[nn.Module] = []
    for layer in transform.children():
        assert isinstance(layer, nn.Conv2d | GDN)
        layers.append(FrozenGDN(layer, dtype) if isinstance(layer, GDN) else copy.deepcopy(layer).to(dtype))
    return nn.Sequential(*layers).requires_grad_(False).eval()
