"""PatchReshape: a latent's grid becomes the transformer's tokens (Zhao & Sun, section on PatchReshape).

    latents [B,192,16,16]
      IR(192,  768, 192, k=3, stride 1)   with shortcut
      IR(192, 1152,   D, k=5, stride 2)
    grid    [B,D,8,8]  ->  tokens [B,64,D]

D is 768 in the paper. For another width only the last block's output count changes; its middle stays at 1152. With a
stride of 1 in the second block the grid keeps its size: four times the tokens of the same weights. Ours.
"""

# B batch, C latent channels (192), H=W latent grid (16), N tokens (64, or 256), D width (768)

from typing import Any, cast

import torch
from torch import Tensor, nn

from pipeline.models.inverted_residual import InvertedResidual

LATENT_CHANNELS = 192
STRIDE = 2
"""The paper's latent positions per token and side: a token covers 2 x 2 latents, 32 x 32 pixels."""
STRIDES = {64: 2, 256: 1}
"""By the number of tokens of a 256 x 256 image."""

_SECOND_MID_CHANNELS = 1152


class PatchReshape(nn.Module):
    """The patch embedding of a timm VisionTransformer that reads latents instead of pixels.

    Takes the arguments timm gives an `embed_layer`; `img_size` is the latent's grid and `in_chans` its
    channels. Being convolutional it accepts any grid; only a learned positional embedding ties a model to one.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 16,
        patch_size: int | tuple[int, int] = STRIDE,
        in_chans: int = LATENT_CHANNELS,
        embed_dim: int = 768,
        norm_layer: type[nn.Module] | None = None,
        flatten: bool = True,
        output_fmt: str | None = None,
        bias: bool = False,
        strict_img_size: bool = False,
        dynamic_img_pad: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        """Builds the two blocks.

        `patch_size` is the second block's stride, 2 or 1. `output_fmt` "NHWC" (which timm asks for under
        `dynamic_img_size`) or `flatten=False` leave the grid unflattened. `bias`, `strict_img_size` and
        `dynamic_img_pad` are taken because timm passes them, and ignored: the convolutions have no bias, and
        every grid will do.
        """
        super().__init__()
        stride, other = _pair(patch_size)
        assert stride == other and stride in STRIDES.values(), f"patch_size is 2 latents or 1, not {patch_size}"
        assert output_fmt in (None, "NCHW", "NHWC"), output_fmt
        self.patch_size = (stride, stride)
        self.flatten = flatten and output_fmt is None
        self.output_fmt = output_fmt or "NCHW"
        self.set_input_size(img_size)
        self.blocks = nn.Sequential(
            InvertedResidual(in_chans, 4 * in_chans, in_chans, kernel_size=3, stride=1),
            InvertedResidual(in_chans, _SECOND_MID_CHANNELS, embed_dim, kernel_size=5, stride=stride),
        )
        self.norm = norm_layer(embed_dim) if norm_layer is not None else nn.Identity()
        self.to(device=device, dtype=dtype)
        # Channels-last through both blocks: depthwise kernels run faster so, and tokens come out without a copy.
        cast(Any, self).to(memory_format=torch.channels_last)

    def set_input_size(
        self, img_size: int | tuple[int, int] | None, patch_size: int | tuple[int, int] | None = None
    ) -> None:
        """Sets the latent grid that `grid_size` and `num_patches` are told for; timm calls it."""
        assert patch_size is None or _pair(patch_size) == self.patch_size, patch_size
        if img_size is None:
            return
        self.img_size = _pair(img_size)
        self.grid_size = self.dynamic_feat_size(self.img_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Latent positions per token and side."""
        return self.patch_size[0] if as_scalar else self.patch_size

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """The token grid of a latent grid: a stride-th of it, rounded up."""
        stride = self.patch_size[0]
        return -(-img_size[0] // stride), -(-img_size[1] // stride)

    def forward(self, latents_BCHW: Tensor) -> Tensor:
        """float [B,C,H,W] -> tokens, float [B,N,D], row by row; or the grid, as `output_fmt` says."""
        grid_BDHW: Tensor = self.blocks(latents_BCHW.contiguous(memory_format=torch.channels_last))
        if self.flatten:
            tokens_BND: Tensor = self.norm(grid_BDHW.flatten(2).transpose(1, 2))
            return tokens_BND
        grid_BHWD: Tensor = self.norm(grid_BDHW.permute(0, 2, 3, 1))
        return grid_BHWD if self.output_fmt == "NHWC" else grid_BHWD.permute(0, 3, 1, 2)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
