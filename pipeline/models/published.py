"""Models as timm makes them of a folder for the Hugging Face Hub: by what stands in its config.json.

Ours are timm's by their own names. One of timm's that reads latents goes by `ci2p_timm_vit`, which is told whose it is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.models import load_pretrained, register_model, resolve_pretrained_cfg
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from pipeline.models.ci2p_vit import LATENT_SIZE
from pipeline.models.model_factory import baseline_names, model_names, variant_arguments
from pipeline.models.patch_reshape import LATENT_CHANNELS
from pipeline.models.timm_vit import EXAMPLE, timm_vit
from pipeline.models.variant import Variant


@register_model
def ci2p_timm_vit(
    pretrained: bool = False,
    *,
    vit: str = EXAMPLE,
    latent_channels: int = LATENT_CHANNELS,
    latent_size: int = LATENT_SIZE,
    num_classes: int | None = None,
    drop_path_rate: float = 0.0,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    pretrained_model_args: dict[str, Any] | None = None,  # what newer timms note of the source
) -> VisionTransformer:
    """The VisionTransformer of timm's that `vit` names, with PatchReshape in place of its patch embedding."""
    resolved: Any = resolve_pretrained_cfg("ci2p_timm_vit", pretrained_cfg, pretrained_cfg_overlay)
    cfg = resolved.to_dict()
    model = timm_vit(
        vit,
        num_classes=cfg["num_classes"] if num_classes is None else num_classes,
        latent_shape=(latent_channels, latent_size, latent_size),
        drop_path=drop_path_rate,
        pretrained=False,
    )
    model.pretrained_cfg = model.default_cfg = cfg
    if pretrained:
        load_pretrained(model, cfg, num_classes=model.num_classes, in_chans=latent_channels, cache_dir=cache_dir)
    return model


def name_for_timm(model: str, variant: Variant) -> tuple[str, dict[str, Any]]:
    """What timm builds a model by: a registered name, and the arguments that say what the name does not."""
    is_ours = model in (*model_names(), *baseline_names())
    return (model, variant_arguments(model, variant)) if is_ours else (ci2p_timm_vit.__name__, {"vit": model})


def build_by_name(architecture: str, num_classes: int, model_args: Mapping[str, Any]) -> nn.Module:
    """A model with fresh weights."""
    model: nn.Module = timm.create_model(architecture, num_classes=num_classes, **model_args)
    return model


def load_by_timm(folder: Path) -> nn.Module:
    """A folder's model with its weights, in evaluation mode."""
    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval()
