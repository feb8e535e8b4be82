"""Validation: top-1 and top-5 of a model on every sample of a split, over all ranks."""

import torch
from lightning_fabric import Fabric
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from pipeline.train.data import Batches

_TOP_K = 5


def validate(fabric: Fabric, model: nn.Module, batches: Batches, num_classes: int) -> tuple[float, float]:
    """Shares in [0, 1] of samples whose class is the likeliest, and among the five likeliest (all, if fewer).

    `model` is the bare module: ranks may differ in their number of batches, and a distributed wrapper would wait for
    the others at each. It is left in training mode.
    """
    accuracy = MetricCollection(
        {
            "top1": MulticlassAccuracy(num_classes, average="micro"),
            "top5": MulticlassAccuracy(num_classes, top_k=min(_TOP_K, num_classes), average="micro"),
        },
        # Which samples a rank happened to get says nothing by itself.
        compute_groups=False,
    ).to(fabric.device)
    model.eval()
    with torch.inference_mode(), fabric.autocast():
        for batch in batches.epoch(0):
            if len(batch.labels):
                accuracy.update(model(batch.latents).float(), batch.labels)
    model.train()
    shares = accuracy.compute()
    return float(shares["top1"]), float(shares["top5"])
