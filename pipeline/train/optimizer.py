"""Optimiser and learning-rate schedule of a recipe."""

from collections.abc import Callable, Collection
from typing import Any

from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import AdamW, Optimizer

from pipeline.train.recipe import Recipe

# What a parameter group says of how a step is computed, not of what it is.
_KERNELS = ("foreach", "fused", "capturable")


def build_optimizer(model: nn.Module, recipe: Recipe, device_type: str = "cpu") -> Optimizer:
    """The recipe's optimiser. It decays kernels and matrices, and leaves biases, norms' weights and embeddings alone.

    A model names in `no_weight_decay`, as timm's do, what is none of the former but has a matrix's shape. `device_type`
    is that of the device which it will step on.
    """
    spared: Callable[[], Collection[str]] = getattr(model, "no_weight_decay", tuple)
    if recipe.optimizer == "adamw":
        groups = param_groups_weight_decay(model, recipe.weight_decay, no_weight_decay_list=spared())
        # One kernel for all parameters on CUDA. Fabric clips no gradients of an optimiser that divides float16's scale
        # out by itself, as a fused one does; torch's own choice, a kernel an operation, is the next best.
        clips_scaled = recipe.precision == "float16" and recipe.grad_clip > 0
        fused = True if device_type == "cuda" and not clips_scaled else None
        return AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=fused)
    groups = param_groups_weight_decay(
        model,
        recipe.weight_decay,
        no_weight_decay_list=spared(),
        fallback_list=_classifier(model),
        fallback_no_weight_decay=True,
    )
    momentum = recipe.betas[0]
    return create_optimizer_v2(groups, opt=recipe.optimizer, lr=recipe.lr, momentum=momentum, betas=recipe.betas)


def restore_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Takes over the state of one that may have been on another device, and goes on computing as this one does."""
    groups = [
        saved | {name: own[name] for name in _KERNELS if name in own}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict(state | {"param_groups": groups})


def _classifier(model: nn.Module) -> list[str]:
    """Names of the classifier's weights, which Muon's author leaves to AdamW."""
    find = getattr(model, "get_classifier", None)
    own = {id(parameter) for parameter in find().parameters()} if find else set()
    return [name for name, parameter in model.named_parameters() if id(parameter) in own]


def build_schedule(optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> Scheduler:
    """Linear warm-up from `warmup_lr` to `lr`, then what the recipe's schedule says, down to `min_lr` where it falls.

    Stateless: `step_update(n)` sets the rate of step n, counted from 0, whatever was set before.
    """
    num_steps = recipe.epochs * steps_per_epoch
    # A warm-up of a fraction of an epoch may round to every step of a tiny run; the schedule keeps at least one.
    num_warmup_steps = min(round(recipe.warmup_epochs * steps_per_epoch), num_steps - 1)
    if recipe.schedule == "constant":
        return _ConstantSchedule(
            optimizer, recipe, num_warmup_steps, round(recipe.epochs_at_peak * steps_per_epoch), num_steps
        )
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


class _ConstantSchedule(Scheduler):
    """Warm-up, the same rate throughout, and a straight fall that ends at the last step; timm has none of the kind."""

    def __init__(
        self, optimizer: Optimizer, recipe: Recipe, num_warmup_steps: int, first_falling_step: int, num_steps: int
    ) -> None:
        super().__init__(optimizer, "lr", t_in_epochs=False)
        self._recipe = recipe
        self._num_warmup_steps = num_warmup_steps
        self._first_falling_step = first_falling_step
        self._num_steps = num_steps
        self.step_update(0)

    def _get_lr(self, t: int) -> list[float]:
        recipe, rate = self._recipe, self._recipe.lr
        if t < self._num_warmup_steps:
            rate = recipe.warmup_lr + (recipe.lr - recipe.warmup_lr) * t / self._num_warmup_steps
        elif t >= self._first_falling_step:
            fallen = (t + 1 - self._first_falling_step) / max(1, self._num_steps - self._first_falling_step)
            rate = recipe.lr + (recipe.min_lr - recipe.lr) * min(1.0, fallen)
        return [rate for _ in self.base_values]
