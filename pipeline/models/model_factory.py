"""From a model's name to a model: what a run folder writes down is what builds the model again."""

import difflib

import timm
from torch import nn

import pipeline.models.ci2p_vit  # noqa: F401  (registers its models)
from ci2p_cache.errors import InputError
from pipeline.models.patch_reshape import LATENT_CHANNELS


def create_model(
    name: str,
    *,
    num_classes: int,
    latent_size: int = 16,
    latent_channels: int = LATENT_CHANNELS,
    drop_path: float = 0.0,
) -> nn.Module:
    """Builds a registered latent model with fresh weights, drawn from torch's global generator.

    `latent_size` is the latent grid's side (image side / 16), `drop_path` the last block's stochastic depth
    rate in [0, 1), to which the blocks before it rise linearly. The model maps float [B,latent_channels,H,W]
    to logits [B,num_classes].

    Raises InputError for a name that is not one of ours, naming the nearest one.
    """
    names = model_names()
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"known: {', '.join(names)}"
        raise InputError(f"model '{name}' is unknown; {hint}")
    model: nn.Module = timm.create_model(
        name,
        num_classes=num_classes,
        latent_size=latent_size,
        latent_channels=latent_channels,
        drop_path_rate=drop_path,
    )
    return model


def model_names() -> list[str]:
    """The latent models that are registered, in alphabetical order."""
    return sorted(timm.list_models("ci2p_*"))
