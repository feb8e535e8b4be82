"""CI2P-ViT: PatchReshape, twelve ViT blocks, LayerNorm, mean over the tokens, linear classifier.

    latents [B,192,16,16] -> PatchReshape -> tokens [B,64,D] -> 12 blocks -> LayerNorm
        -> mean -> features [B,D] -> linear -> logits [B,K]

No class token and no positional embedding, as in the paper: a token knows its neighbours through
PatchReshape's convolutions alone. The blocks are timm's: pre-norm, qkv with bias, exact GELU. `ci2p_vit_base`
is the paper's; the others keep its shape at another width, `ci2p_vit_large` with ViT-L's 24 blocks.
"""

from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from pipeline.models.patch_reshape import LATENT_CHANNELS, STRIDE, PatchReshape

LATENT_SIZE = 16
"""The grid of a 256 x 256 image's latent."""

NORM_LAYER = partial(nn.LayerNorm, eps=1e-6)


def latent_cfg(first_conv: str) -> dict[str, Any]:
    """What timm notes about a model that reads latents; `first_conv` is the name of its first convolution."""
    return {
        "num_classes": 1000,
        "input_size": (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE),
        "fixed_input_size": True,
        "pool_size": None,
        # Latents are taken as the encoder gives them.
        "mean": (0.0,) * LATENT_CHANNELS,
        "std": (1.0,) * LATENT_CHANNELS,
        "first_conv": first_conv,
        "classifier": "head",
    }


default_cfgs = generate_default_cfgs(
    {
        f"ci2p_vit_{width}": latent_cfg("patch_embed.blocks.0.expand.conv")
        for width in ("tiny", "small", "base", "large")
    }
)


def ci2p_vit_settings(
    latent_channels: int = LATENT_CHANNELS, latent_size: int | tuple[int, int] = LATENT_SIZE
) -> dict[str, Any]:
    """The arguments that make timm's VisionTransformer a CI2P-ViT, all but its width and heads."""
    return {
        "img_size": latent_size,
        "in_chans": latent_channels,
        "patch_size": STRIDE,
        "embed_layer": PatchReshape,
        "depth": 12,
        "class_token": False,
        "pos_embed": "none",
        "global_pool": "avg",
        # By itself timm would put the last LayerNorm behind an average pool; the paper's stands before it.
        "fc_norm": False,
        "norm_layer": NORM_LAYER,
    }


def _ci2p_vit(
    variant: str,
    pretrained: bool,
    *,
    latent_channels: int = LATENT_CHANNELS,
    latent_size: int | tuple[int, int] = LATENT_SIZE,
    **kwargs: Any,
) -> VisionTransformer:
    settings = ci2p_vit_settings(latent_channels, latent_size)
    return build_model_with_cfg(VisionTransformer, variant, pretrained, **(settings | kwargs))


@register_model
def ci2p_vit_large(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Width 1024, 24 blocks, 16 heads, MLP 4096. Arguments as for `ci2p_vit_base`."""
    return _ci2p_vit("ci2p_vit_large", pretrained, **({"embed_dim": 1024, "depth": 24, "num_heads": 16} | kwargs))


@register_model
def ci2p_vit_base(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """The paper's CI2P-ViT: width 768, 12 heads, MLP 3072; 87,470,698 parameters with 10 classes.

    Takes `latent_channels` (192) and `latent_size` (16, an image's side over 16) beside timm's own arguments, of which
    `patch_size` is 2, or 1 for four times the tokens.
    """
    return _ci2p_vit("ci2p_vit_base", pretrained, **({"embed_dim": 768, "num_heads": 12} | kwargs))


@register_model
def ci2p_vit_small(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Width 384, 6 heads, MLP 1536. Arguments as for `ci2p_vit_base`."""
    return _ci2p_vit("ci2p_vit_small", pretrained, **({"embed_dim": 384, "num_heads": 6} | kwargs))


@register_model
def ci2p_vit_tiny(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Width 192, 3 heads, MLP 768. Arguments as for `ci2p_vit_base`."""
    return _ci2p_vit("ci2p_vit_tiny", pretrained, **({"embed_dim": 192, "num_heads": 3} | kwargs))
