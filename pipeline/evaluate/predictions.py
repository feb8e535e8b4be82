"""What a model reads -> probabilities. Legend: B batch, V views, K classes, C, H, W of a latent."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ci2p_cache.cache import Cache
from ci2p_cache.errors import InputError
from ci2p_cache.loader import PLAIN_VIEW, BatchLoader
from ci2p_cache.spec import latent_difference, spec_of_record
from ci2p_cache.views import whole_views
from pipeline.running.finite import refuse_non_finite_outputs
from pipeline.running.launched import ALONE, Launched
from pipeline.running.tf32 import float32_products
from pipeline.train.run_folder import DataRecord


@dataclass(frozen=True)
class Predictions:
    """Predictions for B labelled samples, on the CPU."""

    probabilities: Tensor  # float32 [B, K]
    labels: Tensor  # int64 [B]
    places: NDArray[np.int64]  # [B] which of all that are measured they are


@torch.inference_mode()
def predict_inputs(model: nn.Module, inputs_BVCHW: Tensor) -> Tensor:
    """Probabilities float32 [B, K] on the CPU, the mean over the views; latents (or pixels) on the model's device."""
    B, V = inputs_BVCHW.shape[:2]
    with float32_products(tf32=False):
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
    launched: Launched = ALONE,
) -> Iterator[Predictions]:
    """This process's share of a cache's samples, `batch_size` at a time; all processes have every sample once.

    Of each its plain view, or with `tta` the mean over that and its mirror image.
    """
    views = range(len(whole_views(cache.spec.views))) if tta else (PLAIN_VIEW,)
    loaders = [
        BatchLoader(
            cache,
            batch_size=batch_size * launched.world_size,
            rank=launched.rank,
            world_size=launched.world_size,
            device=device,
            shuffle=False,
            workers=workers,
            resident="off",
            view=view,
        ).epoch(0)
        for view in views
    ]
    place_of = np.full(cache.manifest.num_items, -1, dtype=np.int64)
    place_of[cache.positions] = np.arange(cache.num_samples)
    for batches in zip(*loaders, strict=True):
        latents_BVCHW = torch.stack([batch.latents for batch in batches], dim=1)
        first = batches[0]
        yield Predictions(predict_inputs(model, latents_BVCHW), first.labels.cpu(), place_of[first.positions])


def refuse_no_number(part: Predictions, keys: Sequence[str]) -> None:
    """Raises WorkError naming the first image, by its key, of which the model says no number."""
    refuse_non_finite_outputs(part.probabilities, lambda row: keys[int(part.places[row])])


def in_order(parts: Sequence[Predictions], batch_size: int) -> Iterator[Predictions]:
    """The predictions of all processes by place, as one process would have made them."""
    if not parts:
        return
    whole = joined(parts)
    order = np.argsort(whole.places, kind="stable")
    for begin in range(0, len(order), batch_size):
        rows = order[begin : begin + batch_size]
        yield Predictions(whole.probabilities[rows], whole.labels[rows], whole.places[rows])


def joined(parts: Sequence[Predictions]) -> Predictions:
    """One part after another as one; there is at least one."""
    return Predictions(
        torch.cat([part.probabilities for part in parts]),
        torch.cat([part.labels for part in parts]),
        np.concatenate([part.places for part in parts]),
    )


def refuse_other_latents(data: DataRecord, cache: Cache) -> None:
    """Raises InputError unless a cache holds what the model was trained on: same encoder, preprocessing, classes."""
    trained_on = spec_of_record(data.spec)
    field = latent_difference(trained_on, cache.spec)
    if field is not None:
        raise InputError(
            f"--shards {cache.path} holds other latents than the model was trained on: {field} is "
            f"{getattr(cache.spec, field)!r} there and {getattr(trained_on, field)!r} in training; "
            "encode it with the settings of the training cache"
        )
    if tuple(cache.classes) != data.classes:
        odd = sorted(set(cache.classes) ^ set(data.classes)) or ["their order"]
        raise InputError(f"--shards {cache.path} names other classes than the model was trained on ({odd[0]})")
