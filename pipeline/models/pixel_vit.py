"""The paper's baselines: plain ViTs on pixels, with the head of CI2P-ViT so that only the tokens differ.

    pixels [B,3,256,256] -> 16 x 16 patches -> tokens [B,256,D] + positional embedding -> 12 blocks -> LayerNorm
        -> mean -> linear -> logits [B,K]

Pixels are floats in [0,1] and are not normalised. The positional embedding is timm's learned one, made for one image
size; without it a ViT on patches could not tell where a patch lies. No class token. `_p32` takes 32 x 32 patches: as
many tokens as CI2P-ViT has.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer

from pipeline.models.ci2p_vit import NORM_LAYER
from pipeline.transforms import PIXEL_CHANNELS

IMAGE_SIZE = 256


def pixel_cfg(first_conv: str, classifier: str) -> dict[str, Any]:
    """What timm notes about a model that reads pixels as they are, by the names of its first and its last layer."""
    return {
        "num_classes": 1000,
        "input_size": (PIXEL_CHANNELS, IMAGE_SIZE, IMAGE_SIZE),
        "fixed_input_size": True,
        "pool_size": None,
        "mean": (0.0,) * PIXEL_CHANNELS,
        "std": (1.0,) * PIXEL_CHANNELS,
        "first_conv": first_conv,
        "classifier": classifier,
    }


default_cfgs = generate_default_cfgs(
    {
        name: pixel_cfg("patch_embed.proj", "head")
        for name in ("vit_tiny", "vit_small", "vit_base", "vit_tiny_p32", "vit_base_p32")
    }
)

_TINY = {"embed_dim": 192, "num_heads": 3}
_SMALL = {"embed_dim": 384, "num_heads": 6}
_BASE = {"embed_dim": 768, "num_heads": 12}


def _pixel_vit(variant: str, pretrained: bool, **kwargs: Any) -> VisionTransformer:
    settings: dict[str, Any] = {
        "depth": 12,
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,  # the last LayerNorm stands before the mean
        "norm_layer": NORM_LAYER,
    }
    return build_model_with_cfg(VisionTransformer, variant, pretrained, **(settings | kwargs))


@register_model
def vit_base(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """The paper's ViT-B/16: 85,850,890 parameters with 10 classes. Takes `img_size` (256) and timm's own arguments."""
    return _pixel_vit("vit_base", pretrained, **(_BASE | {"patch_size": 16} | kwargs))


@register_model
def vit_small(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """ViT-S/16. Arguments as for `vit_base`."""
    return _pixel_vit("vit_small", pretrained, **(_SMALL | {"patch_size": 16} | kwargs))


@register_model
def vit_tiny(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """ViT-Ti/16. Arguments as for `vit_base`."""
    return _pixel_vit("vit_tiny", pretrained, **(_TINY | {"patch_size": 16} | kwargs))


@register_model
def vit_base_p32(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """ViT-B/32. Arguments as for `vit_base`."""
    return _pixel_vit("vit_base_p32", pretrained, **(_BASE | {"patch_size": 32} | kwargs))


@register_model
def vit_tiny_p32(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """ViT-Ti/32. Arguments as for `vit_base`."""
    return _pixel_vit("vit_tiny_p32", pretrained, **(_TINY | {"patch_size": 32} | kwargs))
