"""What a model reads -> probabilities. Legend: B batch, V views, K classes, C, H, W of a latent."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ci2p_cache.cache import Cache
from ci2p_cache.errors import InputError
from ci2p_cache.loader import PLAIN_VIEW, BatchLoader
from ci2p_cache.spec import CacheSpec, latent_difference
from ci2p_cache.views import whole_views
from pipeline.train.run_folder import RunConfig


@dataclass(frozen=True)
class Predictions:
    """Predictions for B labelled samples, on the CPU."""

    probabilities: Tensor  # float32 [B, K]
    labels: Tensor  # int64 [B]


@torch.inference_mode()
def predict_inputs(model: nn.Module, inputs_BVCHW: Tensor) -> Tensor:
    """Probabilities float32 [B, K] on the CPU, the mean over the views; latents (or pixels) on the model's device."""
    B, V = inputs_BVCHW.shape[:2]
    logits: Tensor = model(inputs_BVCHW.flatten(0, 1))
    return logits.float().softmax(-1).view(B, V, -1).mean(1).cpu()


def predict_cache(
    model: nn.Module,
    cache: Cache,
    *,
    batch_size: int,
    device: torch.device,
    tta: bool = False,
    workers: int = 1,
) -> Iterator[Predictions]:
    """Every sample of a cache once: its plain view, or with `tta` the mean over that and its mirror image."""
    views = range(len(whole_views(cache.spec.views))) if tta else (PLAIN_VIEW,)
    loaders = [
        BatchLoader(
            cache, batch_size=batch_size, device=device, shuffle=False, workers=workers, resident="off", view=view
        ).epoch(0)
        for view in views
    ]
    for batches in zip(*loaders, strict=True):
        latents_BVCHW = torch.stack([batch.latents for batch in batches], dim=1)
        yield Predictions(predict_inputs(model, latents_BVCHW), batches[0].labels.cpu())


def refuse_other_latents(config: RunConfig, cache: Cache) -> None:
    """Raises InputError unless a cache holds what the model was trained on: same encoder, preprocessing, classes."""
    trained_on = CacheSpec.model_validate(config.data.spec)
    field = latent_difference(trained_on, cache.spec)
    if field is not None:
        raise InputError(
            f"--shards {cache.path} holds other latents than the model was trained on: {field} is "
            f"{getattr(cache.spec, field)!r} there and {getattr(trained_on, field)!r} in training; "
            "encode it with the settings of the training cache"
        )
    if tuple(cache.classes) != config.data.classes:
        odd = sorted(set(cache.classes) ^ set(config.data.classes)) or ["their order"]
        raise InputError(f"--shards {cache.path} names other classes than the model was trained on ({odd[0]})")
