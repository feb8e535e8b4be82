"""Learner: a model with its optimiser and schedule on its device; it takes a batch and a step's number and learns."""

# B batch, C latent channels (192), H=W latent grid (16), K classes

from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ci2p_cache.errors import WorkError
from pipeline.models.global_batch import see_global_batch
from pipeline.train.augment import augment
from pipeline.train.checkpoint import Checkpoint, Progress
from pipeline.train.data import Batch
from pipeline.train.optimizer import build_optimizer, build_schedule, restore_optimizer
from pipeline.train.recipe import Recipe
from pipeline.train.weight_average import WeightAverage


class Learner:
    """Everything of a run that changes with a step."""

    def __init__(
        self, fabric: Fabric, model: nn.Module, recipe: Recipe, *, steps_per_epoch: int, num_classes: int
    ) -> None:
        # As on one device: the result does not depend on how many ranks share the batch.
        model = see_global_batch(model, fabric.global_rank, fabric.world_size)
        self.model = model
        """The bare module that learns."""
        self._fabric = fabric
        self._recipe = recipe
        self._num_classes = num_classes
        self._optimizer = build_optimizer(model, recipe, fabric.device.type)
        mode = recipe.compile if isinstance(recipe.compile, str) else None
        forward = cast(nn.Module, torch.compile(model, mode=mode)) if recipe.compile else model
        self._wrapped, self._stepper = fabric.setup(forward, self._optimizer)
        self._schedule = build_schedule(self._optimizer, recipe, steps_per_epoch)
        self._wrapped.train()
        self._average = WeightAverage(model, recipe.ema_decay) if recipe.ema_decay > 0 else None

    def learn(self, batch: Batch, step: int, seed: int) -> Tensor:
        """One optimiser step on a batch: the step's number in the run sets the rate, `seed` whatever is random.

        Returns this rank's loss from before the step, float32 [], still on the device.
        """
        if self._recipe.compile == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        self._schedule.step_update(step)
        latents_BCHW, targets = augment(
            batch.latents,
            batch.labels,
            self._recipe,
            num_classes=self._num_classes,
            seed=seed,
            rank=self._fabric.global_rank,
            world_size=self._fabric.world_size,
        )
        torch.manual_seed(seed)  # for stochastic depth and dropped tokens
        logits_BK = self._wrapped(latents_BCHW)
        loss = cross_entropy(logits_BK, targets, label_smoothing=self._recipe.label_smoothing)
        self._fabric.backward(loss)
        if self._recipe.grad_clip > 0:
            self._fabric.clip_gradients(
                self._wrapped, self._stepper, max_norm=self._recipe.grad_clip, error_if_nonfinite=False
            )
        self._stepper.step()
        self._stepper.zero_grad()
        if self._average is not None:
            self._average.update(step)
        return loss.detach()

    @property
    def evaluated(self) -> nn.Module:
        """The bare module that is evaluated and kept: the one with averaged weights where the recipe averages them."""
        return self.model if self._average is None else self._average.model

    @property
    def lr(self) -> float:
        """The rate of the step that was last learnt."""
        return float(self._optimizer.param_groups[0]["lr"])

    def checkpoint(self, progress: Progress, run_id: str) -> Checkpoint:
        """The run as it stands; the tensors are the live ones."""
        return Checkpoint(
            progress,
            self.model.state_dict(),
            self._optimizer.state_dict(),
            self._fabric.strategy.precision.state_dict(),
            {} if self._average is None else self._average.state_dict(),
            run_id,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over a checkpoint's weights, moments and average. Raises WorkError when they are of another model."""
        try:
            self.model.load_state_dict(checkpoint.model)
            restore_optimizer(self._optimizer, checkpoint.optimizer)
            self._fabric.strategy.precision.load_state_dict(checkpoint.precision)
            if self._average is not None:
                self._average.load_state_dict(checkpoint.ema)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()[:200]
            raise WorkError(f"the checkpoint is not {self._recipe.model}'s ({reason}); give another --out") from error

    def share_statistics(self) -> None:
        """Makes rank 0's running statistics everybody's, so that all ranks evaluate, and save, one model."""
        if self._fabric.world_size > 1:
            averaged = () if self._average is None else self._average.model.buffers()
            for buffer in (*self.model.buffers(), *averaged):
                torch.distributed.broadcast(buffer, src=0)
