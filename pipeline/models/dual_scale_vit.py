"""CI2P-ViT-ds, the dual-scale model: half of its blocks see the latent's own grid, half see PatchReshape's.

    latents [B,192,16,16] -> PatchReshape: IR(192,768,192,k3,s1) twice       -> fine grid   [B,192,16,16]
        -> 256 tokens -> 6 blocks (D=192, 3 heads)
        -> CnnReshape: IR(192,1152,768,k5,s2)                                -> coarse grid [B,768,8,8]
        -> 64 tokens -> 6 blocks (D=768, 12 heads) -> LayerNorm -> mean -> linear -> logits [B,K]

No class token and no positional embedding. A LayerNorm stands before the mean alone, none between the scales.
Dense tasks take the two grids: `feature_maps`, or timm's `create_model("ci2p_vit_ds", features_only=True)`.
"""

# B batch, C latent channels (192), H=W latent grid (16), h=w token grid (16 or 8), N tokens, D width, K classes

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pipeline.models.ci2p_vit import LATENT_SIZE, NORM_LAYER, latent_cfg
from pipeline.models.inverted_residual import InvertedResidual
from pipeline.models.patch_reshape import LATENT_CHANNELS

default_cfgs = generate_default_cfgs(
    {"ci2p_vit_ds": latent_cfg("patch_reshape.0.expand.conv") | {"fixed_input_size": False}}
)

_COARSE_MID_CHANNELS = 1152


class DualScaleVit(nn.Module):
    """The dual-scale model. Being convolutional before its blocks, it takes any latent grid of even sides.

    `embed_dims`, `depths` and `num_heads` are those of the fine scale and of the coarse one; `drop_path_rate` is the
    last block's, to which all blocks before it rise linearly.
    """

    def __init__(
        self,
        in_chans: int = LATENT_CHANNELS,
        num_classes: int = 1000,
        embed_dims: tuple[int, int] = (192, 768),
        depths: tuple[int, int] = (6, 6),
        num_heads: tuple[int, int] = (3, 12),
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        fine, coarse = embed_dims
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = coarse
        self.feature_info = [
            {"module": "fine_blocks", "num_chs": fine, "reduction": 1},
            {"module": "coarse_blocks", "num_chs": coarse, "reduction": 2},
        ]
        self.patch_reshape = nn.Sequential(
            InvertedResidual(in_chans, 4 * in_chans, in_chans, kernel_size=3, stride=1),
            InvertedResidual(in_chans, 4 * in_chans, fine, kernel_size=3, stride=1),
        )
        self.cnn_reshape = InvertedResidual(fine, _COARSE_MID_CHANNELS, coarse, kernel_size=5, stride=2)
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        self.fine_blocks = _blocks(fine, num_heads[0], rates[: depths[0]])
        self.coarse_blocks = _blocks(coarse, num_heads[1], rates[depths[0] :])
        self.norm = NORM_LAYER(coarse)
        self.head = _linear_head(coarse, num_classes)
        self.init_weights()
        for part in (self.patch_reshape, self.cnn_reshape):
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def init_weights(self) -> None:
        """Linear layers as in timm, truncated normals of 0.02 and zero biases; convolutions by their own rule."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, InvertedResidual):
                module.init_weights()

    def feature_maps(self, latents_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """float [B,C,H,W] -> fine grid [B,192,H,W] after its blocks, coarse grid [B,768,H/2,W/2] after the norm."""
        fine_BDhw, coarse_BDhw = self._scales(latents_BCHW)
        return fine_BDhw, _through(self.norm, coarse_BDhw)

    def forward_features(self, latents_BCHW: Tensor) -> Tensor:
        """float [B,C,H,W] -> normalised tokens of the coarse scale, float [B,N,768], row by row."""
        _, coarse_BDhw = self._scales(latents_BCHW)
        tokens_BND: Tensor = self.norm(_tokens(coarse_BDhw))
        return tokens_BND

    def forward_head(self, tokens_BND: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens -> logits [B,K], or the mean [B,768] that they are computed from."""
        features_BD = tokens_BND.mean(1)
        logits_BK: Tensor = self.head(features_BD)
        return features_BD if pre_logits else logits_BK

    def forward(self, latents_BCHW: Tensor) -> Tensor:
        """float [B,C,H,W] -> logits [B,K]."""
        return self.forward_head(self.forward_features(latents_BCHW))

    def forward_intermediates(
        self,
        latents_BCHW: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = True,
    ) -> list[Tensor]:
        """The grids that timm's `features_only` asks for by index: 0 is the fine one, 1 the coarse one.

        An integer counts from the end. `norm` applies the last LayerNorm to the coarse grid.
        """
        assert output_fmt == "NCHW" and intermediates_only, "the grids are all there is, as [B,D,h,w]"
        maps = self.feature_maps(latents_BCHW) if norm else self._scales(latents_BCHW)
        taken = range(2) if indices is None else range(-indices, 0) if isinstance(indices, int) else indices
        return [maps[index] for index in taken]

    def get_classifier(self) -> nn.Module:
        """The linear classifier, or an identity; timm asks for it by this name."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Another number of classes; none at all leaves the mean."""
        assert global_pool in (None, "avg"), global_pool
        self.num_classes = num_classes
        self.head = _linear_head(self.num_features, num_classes).to(self.norm.weight.device)

    def _scales(self, latents_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        grid_BDhw = self.patch_reshape(latents_BCHW.contiguous(memory_format=torch.channels_last))
        fine_BDhw = _through(self.fine_blocks, grid_BDhw)
        return fine_BDhw, _through(self.coarse_blocks, self.cnn_reshape(fine_BDhw))


def _blocks(width: int, num_heads: int, drop_paths: Sequence[float]) -> nn.Sequential:
    norm_layer: Any = NORM_LAYER
    return nn.Sequential(
        *(Block(width, num_heads, qkv_bias=True, drop_path=rate, norm_layer=norm_layer) for rate in drop_paths)
    )


def _linear_head(width: int, num_classes: int) -> nn.Module:
    return nn.Linear(width, num_classes) if num_classes else nn.Identity()


def _tokens(grid_BDhw: Tensor) -> Tensor:
    return grid_BDhw.flatten(2).transpose(1, 2)


def _through(layers: nn.Module, grid_BDhw: Tensor) -> Tensor:
    """A grid as tokens through blocks or a norm, and back to a grid."""
    tokens_BND: Tensor = layers(_tokens(grid_BDhw))
    return tokens_BND.transpose(1, 2).reshape(grid_BDhw.shape)


@register_model
def ci2p_vit_ds(
    pretrained: bool = False,
    latent_channels: int = LATENT_CHANNELS,
    latent_size: int | tuple[int, int] = LATENT_SIZE,
    **kwargs: Any,
) -> DualScaleVit:
    """The paper's CI2P-ViT-ds; 48,213,802 parameters with 10 classes.

    Takes `latent_channels` (192), `latent_size` (which it does not depend on) and `DualScaleVit`'s arguments.
    """
    model: DualScaleVit = build_model_with_cfg(
        DualScaleVit,
        "ci2p_vit_ds",
        pretrained,
        in_chans=latent_channels,
        feature_cfg={"out_indices": (0, 1), "feature_cls": "getter"},
        **kwargs,
    )
    return model
