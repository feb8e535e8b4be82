"""Token drop: in training a model sees a random part of its tokens, and costs as much less."""

from timm.layers import PatchDropout
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ci2p_cache.errors import InputError


def drop_tokens(model: nn.Module, share: float) -> None:
    """Makes a model drop a `share` in [0, 1) of its tokens while it trains; 0 leaves the model as it is.

    Through timm's PatchDropout (Liu et al., "PatchDropout"): another draw for every sample and step from torch's
    generator of the device, behind PatchReshape and the positions, class tokens and their like kept. The mean is over
    what is left. It has no weights, and evaluation drops nothing. Raises InputError for a model that needs all its
    tokens, as the dual-scale one does to make a grid of them again.
    """
    if share == 0:
        return
    vits = [module for module in model.modules() if isinstance(module, VisionTransformer)]
    if not vits:
        raise InputError(
            f"token_drop = {share:g}: {type(model).__name__} needs all of its tokens; leave token_drop at 0, or name "
            "ci2p_vit_base, another ci2p_vit of one scale, or a VisionTransformer of timm's"
        )
    for vit in vits:
        vit.patch_drop = PatchDropout(share, num_prefix_tokens=vit.num_prefix_tokens)
