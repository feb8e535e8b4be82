"""Optimiser and learning-rate schedule of a recipe."""

from collections.abc import Callable, Collection

from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim import AdamW

from pipeline.train.recipe import Recipe


def build_optimizer(model: nn.Module, recipe: Recipe) -> AdamW:
    """AdamW that decays kernels and matrices, and leaves biases, normalisation weights and embeddings alone.

    A model names in `no_weight_decay`, as timm's do, what is none of the former but has a matrix's shape.
    """
    spared: Callable[[], Collection[str]] = getattr(model, "no_weight_decay", tuple)
    groups = param_groups_weight_decay(model, recipe.weight_decay, no_weight_decay_list=spared())
    return AdamW(groups, lr=recipe.lr, betas=recipe.betas)


def build_schedule(optimizer: AdamW, recipe: Recipe, steps_per_epoch: int) -> CosineLRScheduler:
    """Linear warm-up from `warmup_lr` to `lr`, then a cosine down to `min_lr` at the last step.

    Stateless: `step_update(n)` sets the rate of step n, counted from 0, whatever was set before.
    """
    num_steps = recipe.epochs * steps_per_epoch
    # A warm-up of a fraction of an epoch may round to every step of a tiny run; the cosine keeps at least one.
    num_warmup_steps = min(round(recipe.warmup_epochs * steps_per_epoch), num_steps - 1)
    return CosineLRScheduler(
        optimizer,
        t_initial=num_steps - num_warmup_steps,
        lr_min=recipe.min_lr,
        warmup_t=num_warmup_steps,
        warmup_lr_init=recipe.warmup_lr,
        # The cosine starts where the warm-up ends, instead of having run meanwhile: no jump between the two.
        warmup_prefix=True,
        t_in_epochs=False,
    )
