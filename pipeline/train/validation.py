"""Validation: top-1 and top-5 of a model on every sample of a split, over all ranks."""

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pipeline.running import signals
from pipeline.train.data import Batches

_TOP_K = 5


def validate(fabric: Fabric, model: nn.Module, batches: Batches) -> tuple[float, float]:
    """Shares in [0, 1] of samples whose class is the likeliest, and among the five likeliest (all, if fewer).

    `model` is the bare module: ranks may differ in their number of batches, and a distributed wrapper would wait for
    the others at each. It is left in training mode.
    """
    counts = torch.zeros(3, dtype=torch.int64, device=fabric.device)  # of samples: all, right, right among five
    model.eval()
    with torch.inference_mode(), fabric.autocast():
        for batch in batches.epoch(0):
            if signals.told() is not None:
                break  # the caller asks, too, and whether others were told
            if len(batch.labels):
                is_right, is_among = right_predictions(model(batch.latents).float(), batch.labels)
                counts += torch.stack([torch.ones_like(is_right), is_right, is_among]).sum(1)
    model.train()
    # Which samples a rank happened to get says nothing by itself.
    total, *right = fabric.all_reduce(counts, reduce_op="sum")
    top1, top5 = (float(count / total) for count in right)
    return top1, top5


def right_predictions(scores_BK: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
    """bool [B] twice: whether the label is the likeliest class, and whether it is among the five likeliest.

    `scores_BK` are logits or probabilities.
    """
    likeliest_Bk = scores_BK.topk(min(_TOP_K, scores_BK.shape[1]), dim=1).indices
    return scores_BK.argmax(1) == labels_B, (likeliest_Bk == labels_B[:, None]).any(1)
