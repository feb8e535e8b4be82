"""From a model's name to a model: what a run folder writes down is what builds the model again."""

import difflib
from typing import Any

import timm
from torch import nn

import pipeline.models.ci2p_vit
import pipeline.models.cnn_vit
import pipeline.models.dual_scale_vit
import pipeline.models.pixel_vit  # noqa: F401  (these register their models)
from ci2p_cache.errors import InputError
from pipeline.models.ci2p_vit import LATENT_SIZE
from pipeline.models.patch_reshape import LATENT_CHANNELS
from pipeline.models.pixel_cnn import NAMES as PIXEL_CNNS
from pipeline.models.pixel_cnn import pixel_cnn
from pipeline.models.pixel_vit import IMAGE_SIZE
from pipeline.models.timm_vit import EXAMPLE, timm_vit, timm_vit_names
from pipeline.models.variant import PAPER, Variant, refuse_variant
from pipeline.transforms import PIXEL_CHANNELS


def create_model(
    name: str,
    *,
    num_classes: int,
    input_shape: tuple[int, int, int] | None = None,
    drop_path: float = 0.0,
    variant: Variant = PAPER,
    pretrained: bool | str = False,
) -> nn.Module:
    """Builds one of our models or any VisionTransformer of timm's, its weights drawn from torch's global generator.

    `input_shape` is [C,H,W] of one sample: latents, by default [192,16,16], or for a pixel baseline pixels, by default
    [3,256,256]. `drop_path` is the last block's stochastic depth rate in [0, 1), to which the blocks before it rise
    linearly. `variant` is what a ci2p_vit of one scale has otherwise than the paper's. `pretrained` starts a timm model
    from timm's weights, or from a file of them if it is a path; nothing else touches the network. The model maps float
    [B,C,H,W] to logits [B,num_classes].

    Raises InputError for a name that is no such model (naming the nearest), for a shape that the model does not read,
    for a variant that there is none of, and for pretrained weights that do not exist, cannot be had or do not
    fit.
    """
    is_ours = name in (*model_names(), *baseline_names())
    if not is_ours:
        _refuse_unless_timm_vit(name)
    shape = input_shape or _default_shape(name)
    _refuse_other_input(name, shape)
    arguments = variant_arguments(name, variant)
    if not is_ours:
        return timm_vit(name, num_classes=num_classes, latent_shape=shape, drop_path=drop_path, pretrained=pretrained)
    if pretrained:
        raise InputError(
            f"--pretrained: {name} has no published weights; leave it out, or name a VisionTransformer of timm's, "
            f"as in --model {EXAMPLE}"
        )
    if name in PIXEL_CNNS:
        return pixel_cnn(name, num_classes=num_classes, drop_path=drop_path)
    channels, height, width = shape
    size = (height, width)
    arguments |= {"img_size": size} if reads_pixels(name) else {"latent_channels": channels, "latent_size": size}
    model: nn.Module = timm.create_model(name, num_classes=num_classes, drop_path_rate=drop_path, **arguments)
    return model


def model_names() -> list[str]:
    """Our models that read latents, in alphabetical order; beside them `create_model` takes timm's ViTs."""
    return sorted(timm.list_models(module=("ci2p_vit", "dual_scale_vit")))


def one_scale_names() -> list[str]:
    """Our models that read latents and whose tokens all stand on one grid."""
    return sorted(timm.list_models(module="ci2p_vit"))


def baseline_names() -> list[str]:
    """The models that read pixels, in alphabetical order."""
    return sorted([*timm.list_models(module=("cnn_vit", "pixel_vit")), *PIXEL_CNNS])


def has_image_size(name: str) -> bool:
    """Whether a model that reads pixels is built for one image size."""
    return name not in PIXEL_CNNS


def reads_pixels(name: str) -> bool:
    """Whether a model takes pixels; all others take latents."""
    return name in baseline_names()


def variant_arguments(name: str, variant: Variant) -> dict[str, Any]:
    """What a variant adds to timm's arguments. Raises InputError where it cannot be."""
    refuse_variant(variant, name, one_scale=name in one_scale_names())
    return variant.arguments()


def _default_shape(name: str) -> tuple[int, int, int]:
    if reads_pixels(name):
        return (PIXEL_CHANNELS, IMAGE_SIZE, IMAGE_SIZE)
    return (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)


def _refuse_unless_timm_vit(name: str) -> None:
    vits = timm_vit_names()
    if name.partition(".")[0] in vits:
        return
    ours = ", ".join(model_names())
    if timm.is_model(name):
        raise InputError(
            f"model '{name}' is no VisionTransformer, so it has no patch embedding that PatchReshape could replace; "
            f"name one of timm's that is, such as {EXAMPLE}, or one of {ours}"
        )
    nearest = difflib.get_close_matches(name, [*model_names(), *baseline_names(), *vits], n=1)
    hint = f"did you mean '{nearest[0]}'?" if nearest else f"known: {ours}, and timm's VisionTransformers"
    raise InputError(f"model '{name}' is unknown; {hint}")


def _refuse_other_input(name: str, shape: tuple[int, int, int]) -> None:
    are_pixels = shape[0] == PIXEL_CHANNELS
    if reads_pixels(name) and not are_pixels:
        raise InputError(
            f"model '{name}' reads pixels, and this cache holds latents {list(shape)}; train it with "
            f"`ci2p baseline --model {name}`, or name one of {', '.join(model_names())}"
        )
    if are_pixels and not reads_pixels(name):
        raise InputError(
            f"model '{name}' reads latents, and these are pixels {list(shape)}; train it with "
            f"`ci2p train --model {name}`, or name one of {', '.join(baseline_names())}"
        )
