"""Validation: loss, top-1 and top-5 of a model on every sample of a split, over all ranks."""

from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ci2p_cache.errors import WorkError
from pipeline.running import signals
from pipeline.train.data import Batch, Batches

_TOP_K = 5
_MOST_CONFUSED = 1000  # classes; of more the counts would take gigabytes


@runtime_checkable
class Named(Protocol):
    """Batches whose samples have names."""

    def keys_of(self, batch: Batch) -> list[str]:
        """Of each sample of a batch, for messages."""


@dataclass(frozen=True)
class Validation:
    """What a model does on a split."""

    top1: float
    """Share in [0, 1] of samples whose class is the likeliest."""
    top5: float
    """The same among the five likeliest, or among all when there are fewer."""
    loss: float
    """Mean cross entropy, in nats, without the label smoothing of the training loss."""
    confusion: list[list[int]] | None
    """[K][K], row: the label, column: the prediction; None of more than a thousand classes."""


def validate(fabric: Fabric, model: nn.Module, batches: Batches, *, num_classes: int) -> Validation:
    """Measures a model on every sample.

    `model` is the bare module: ranks may differ in their number of batches, and a distributed wrapper would wait for
    the others at each. It is left in training mode. Raises WorkError, on every rank, where the model says no number.
    """
    # Of samples: all, right, right among five, with no number for an output, and for an input.
    counts = torch.zeros(5, dtype=torch.int64, device=fabric.device)
    loss_sum = torch.zeros((), dtype=torch.float64, device=fabric.device)
    K = num_classes if num_classes <= _MOST_CONFUSED else 0
    cells = [torch.zeros(0, dtype=torch.int64, device=fabric.device)]  # of the confusion matrix, row by row
    model.eval()
    with torch.inference_mode(), fabric.autocast():
        for batch in batches.epoch(0):
            if signals.told() is not None:
                break  # the caller asks, too, and whether others were told
            if len(batch.labels):
                logits_BK = model(batch.latents).float()
                loss_sum += cross_entropy(logits_BK, batch.labels, reduction="sum")
                is_right, is_among = right_predictions(logits_BK, batch.labels)
                if K:
                    cells.append(batch.labels * K + logits_BK.argmax(1))
                is_bad = ~torch.isfinite(logits_BK).all(1)
                is_bad_input = ~torch.isfinite(batch.latents).flatten(1).all(1)
                counts += torch.stack([torch.ones_like(is_right), is_right, is_among, is_bad, is_bad_input]).sum(1)
    model.train()
    # Which samples a rank happened to get says nothing by itself.
    total, *right, num_bad, num_bad_inputs = fabric.all_reduce(counts, reduce_op="sum")
    if num_bad:
        names = _name_of_first(fabric, model, batches)
        raise WorkError(_what_is_none(int(num_bad), int(num_bad_inputs), int(total), names))
    top1, top5 = (float(count / total) for count in right)
    loss = float(fabric.all_reduce(loss_sum, reduce_op="sum") / total)
    confusion = None
    if K:
        counts_KK = torch.bincount(torch.cat(cells), minlength=K * K).view(K, K)
        confusion = cast(Tensor, fabric.all_reduce(counts_KK, reduce_op="sum")).tolist()
    return Validation(top1, top5, loss, confusion)


def _name_of_first(fabric: Fabric, model: nn.Module, batches: Batches) -> str:
    """The first of the samples of this rank without a number, where they have names.

    Looked for once it is known that there is one: to ask the device at every batch would be to wait for it.
    """
    if not isinstance(batches, Named):
        return ""
    model.eval()
    with torch.inference_mode(), fabric.autocast():
        for batch in batches.epoch(0):
            is_bad = ~torch.isfinite(model(batch.latents).float()).all(1)
            if is_bad.any():
                return f" ({batches.keys_of(batch)[int(is_bad.nonzero()[0])]} is one)"
    return ""


def _what_is_none(num_bad: int, num_bad_inputs: int, total: int, names: str) -> str:
    if num_bad_inputs:
        why = f"{num_bad_inputs} of them hold values that are infinite or none: verify the cache, or encode it anew"
    else:
        why = "the model's values grew too large: lower lr, set grad_clip, or use precision float32 or bfloat16"
    return f"of {num_bad} of {total} validation samples{names} the model says no number; {why}"


def right_predictions(scores_BK: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
    """bool [B] twice: whether the label is the likeliest class, and whether it is among the five likeliest.

    `scores_BK` are logits or probabilities.
    """
    likeliest_Bk = scores_BK.topk(min(_TOP_K, scores_BK.shape[1]), dim=1).indices
    return scores_BK.argmax(1) == labels_B, (likeliest_Bk == labels_B[:, None]).any(1)
