"""Inverted residual: expand, look around, weigh the channels, narrow again (MobileNetV3's block).

x [B,in,H,W]
|---------------------------------------------.
1x1 conv in->mid, BN, hard-swish               |
k x k depthwise conv, stride s, BN, hard-swish |  identity, when s == 1 and in == out
squeeze-excite over mid                        |
1x1 conv mid->out, BN                          |
+ <--------------------------------------------'
y [B,out,ceil(H/s),ceil(W/s)]
"""

# B batch, M mid channels, H, W grid

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

SQUEEZE_RATIO = 4


class SqueezeExcite(nn.Module):
    """Scales every channel by a gate in [0, 1] computed from the channel means (ratio 4, hard-sigmoid)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = channels // SQUEEZE_RATIO
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.activation = nn.ReLU(inplace=True)
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid()  # (x + 3) / 6 clipped to [0, 1]

    def forward(self, x_BMHW: Tensor) -> Tensor:
        """float [B,M,H,W] -> float [B,M,H,W]."""
        means_BM11 = x_BMHW.mean((2, 3), keepdim=True)
        gates_BM11: Tensor = self.gate(self.expand(self.activation(self.reduce(means_BM11))))
        return x_BMHW * gates_BM11


class DepthwiseConv(nn.Conv2d):
    """A depthwise convolution without bias that stays in float32 on a CPU, under autocast too.

    oneDNN has no bfloat16 kernel for the gradient of a strided one: on a Zen 4 core that of 5 x 5, 1152 channels and
    8 x 8 cells takes 14 times as long as in float32, more than all the rest of a small model's step together.
    """

    def __init__(self, channels: int, kernel_size: int, stride: int) -> None:
        super().__init__(channels, channels, kernel_size, stride, kernel_size // 2, groups=channels, bias=False)

    def forward(self, x_BMHW: Tensor) -> Tensor:
        """float [B,M,H,W] -> the same dtype [B,M,ceil(H/stride),ceil(W/stride)]."""
        if x_BMHW.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(x_BMHW)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x_BMHW.float()).to(x_BMHW.dtype)


class InvertedResidual(nn.Module):
    """IR(in, mid, out, k, stride) of the paper; no activation after the last normalisation."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.expand = _normalised(_pointwise(in_channels, mid_channels), activation=True)
        self.depthwise = _normalised(DepthwiseConv(mid_channels, kernel_size, stride), activation=True)
        self.squeeze_excite = SqueezeExcite(mid_channels)
        self.project = _normalised(_pointwise(mid_channels, out_channels), activation=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Kaiming normal by fan out for the convolutions; zero biases; normalisation at the identity.

        timm calls this by its name after it has initialised the parts, so that its own schemes, which are
        made for linear layers, do not decide what the convolutions start from.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # torch's own fan-out rule overlooks groups and would start a depthwise kernel sqrt(M) too small.
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """float [B,in,H,W] -> float [B,out,ceil(H/stride),ceil(W/stride)]."""
        y_BCHW: Tensor = self.project(self.squeeze_excite(self.depthwise(self.expand(x_BCHW))))
        return x_BCHW + y_BCHW if self.has_shortcut else y_BCHW


def _pointwise(in_channels: int, out_channels: int) -> nn.Conv2d:
    # The normalisation that follows would cancel a bias.
    return nn.Conv2d(in_channels, out_channels, 1, bias=False)


def _normalised(conv: nn.Conv2d, *, activation: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, norm=nn.BatchNorm2d(conv.out_channels))
    if activation:
        # Not in place: its gradient needs what it was given, which autograd would then save as a copy of its own.
        layers["activation"] = nn.Hardswish()
    return nn.Sequential(layers)
