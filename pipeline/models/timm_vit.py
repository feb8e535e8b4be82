"""Any VisionTransformer of timm's, reading latents: PatchReshape takes the place of its patch embedding.

    latents [B,192,16,16] -> PatchReshape -> 64 tokens [B,64,D] -> what timm's model does with tokens -> logits [B,K]

Class token, registers, norms, blocks, pooling and head stay as they are; a positional embedding is resampled to the
new grid of tokens. With pretrained weights everything but PatchReshape starts from them.
"""

# B batch, C latent channels (192), H=W latent grid (16), N tokens, D width, K classes

import difflib
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import timm.models
from safetensors import SafetensorError
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ci2p_cache.errors import InputError
from pipeline.models.patch_reshape import PatchReshape

EXAMPLE = "vit_small_patch16_224"

# The modules of timm in which every model is a VisionTransformer.
_MODULES = ("deit", "vision_transformer", "vision_transformer_hybrid", "vitamin")

# What torch.load, safetensors and load_state_dict let out for a file that is not the model's.
_UNREADABLE = (
    SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError,
)  # fmt: skip


def timm_vit_names() -> list[str]:
    """Names of timm's VisionTransformers, without the tags of their weights."""
    return list(timm.list_models(module=_MODULES))


def timm_vit(
    name: str, *, num_classes: int, latent_shape: tuple[int, int, int], drop_path: float, pretrained: bool | str
) -> VisionTransformer:
    """Builds the model of a name in `timm_vit_names`, which may bear the tag of its weights, for latents [C,H,W].

    `pretrained` loads timm's weights: from the network (or timm's own cache) if true, from a file if a path.
    Raises InputError for a tag that timm does not know, and for weights that cannot be had or do not fit.
    """
    _refuse_unknown_tag(name)
    if pretrained:
        model = _load(name, drop_path, pretrained)
        if model.num_classes != num_classes:
            model.reset_classifier(num_classes)
    else:
        model = _create(name, num_classes=num_classes, drop_path_rate=drop_path)
    _read_latents(model, latent_shape)
    if not pretrained and model.pos_embed is not None:
        nn.init.trunc_normal_(model.pos_embed, std=0.02)  # resampled noise would be noise of another scale
    return model


def _read_latents(model: VisionTransformer, latent_shape: tuple[int, int, int]) -> None:
    channels, height, width = latent_shape
    old = model.patch_embed
    new = PatchReshape(
        img_size=(height, width),
        in_chans=channels,
        embed_dim=model.embed_dim,
        # Such a model adds its positions to the grid and flattens it afterwards.
        output_fmt="NHWC" if model.dynamic_img_size else None,
    )
    new.norm = getattr(old, "norm", new.norm)
    model.patch_embed = new
    model.in_chans = channels
    if model.pos_embed is not None:
        positions_1ND = resample_abs_pos_embed(
            model.pos_embed.detach(),
            new_size=list(new.grid_size),
            old_size=list(old.grid_size),
            num_prefix_tokens=0 if model.no_embed_class else model.num_prefix_tokens,
        )
        model.pos_embed = nn.Parameter(positions_1ND, requires_grad=model.pos_embed.requires_grad)


def _load(name: str, drop_path: float, pretrained: bool | str) -> VisionTransformer:
    """timm's model as it was trained, with the classes that it was trained for: then every weight has to be there."""
    if isinstance(pretrained, str):
        pretrained = os.path.expanduser(pretrained)  # noqa: PTH111  (Path's raises where there is no such user)
        with _refusing_file(name, pretrained):
            return _create(name, pretrained=True, pretrained_cfg_overlay={"file": pretrained}, drop_path_rate=drop_path)
    if not timm.models.is_model_pretrained(name):
        raise InputError(f"--pretrained: timm has no weights for {name}; leave --pretrained out, or name another model")
    try:
        return _create(name, pretrained=True, drop_path_rate=drop_path)
    except OSError as error:
        raise InputError(
            f"--pretrained: the weights of {name} are not on this machine and the download failed ({_short(error)}); "
            f"fetch {_source(name)} where there is a network and name the file with --set pretrained=FILE"
        ) from error


def _create(name: str, **settings: Any) -> VisionTransformer:
    model = timm.create_model(name, **settings)
    assert isinstance(model, VisionTransformer), name
    return model


@contextmanager
def _refusing_file(name: str, file: str) -> Iterator[None]:
    if not Path(file).is_file():
        raise InputError(f"pretrained = {file!r}: no such file; give timm's weights of {name}, or --pretrained")
    try:
        yield
    except _UNREADABLE as error:
        raise InputError(
            f"pretrained = {file!r} does not hold timm's weights of {name} ({_short(error)}); they are {_source(name)}"
        ) from error


def _source(name: str) -> str:
    """Where timm publishes a model's weights."""
    cfg = timm.models.get_pretrained_cfg(name)
    assert cfg is not None
    return f"https://huggingface.co/{cfg.hf_hub_id}/resolve/main/model.safetensors" if cfg.hf_hub_id else str(cfg.url)


def _refuse_unknown_tag(name: str) -> None:
    architecture, _, tag = name.partition(".")
    known = timm.models.get_arch_pretrained_cfgs(architecture)
    if tag and name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)
        raise InputError(f"model '{name}': timm has no such weights of {architecture}; did you mean '{nearest[0]}'?")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
