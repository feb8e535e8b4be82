"""The two optimisers of a codec: one for the rate-distortion loss, one for the prior's quantiles."""

import torch
from timm.optim import Muon

from pipeline.encode.whole_codec import Codec

AUX_LR = 1e-3
"""Of the quantiles; CompressAI's own examples use it."""


def rate_distortion_optimizer(codec: Codec, lr: float) -> torch.optim.Optimizer:
    """Muon (with Nesterov momentum) for the 5x5 kernels, each as a matrix; Adam for biases, GDN and the prior."""
    kernels: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in codec.named_parameters():
        if not name.endswith(".quantiles"):
            (kernels if parameter.ndim == 4 else others).append(parameter)
    groups = [{"params": kernels, "use_muon": True}, {"params": others, "use_muon": False}]
    return Muon(groups, lr=lr, nesterov=True, betas=(0.9, 0.999))


def auxiliary_optimizer(codec: Codec) -> torch.optim.Optimizer:
    """Adam for the quantiles, which the auxiliary loss alone reaches."""
    return torch.optim.Adam([codec.entropy_bottleneck.quantiles], lr=AUX_LR)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
