"""Loss log: the losses of an epoch, fetched from the device in groups, so that no step waits for the one before."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ci2p_cache.errors import WorkError


class LossLog:
    """Collects one loss a step. `exchange` brings what has gathered to the host, checks it and adds it up."""

    def __init__(self, loss_sum: float, num_steps: int) -> None:
        """Goes on from a sum over the `num_steps` that an epoch has behind it."""
        self.loss_sum = loss_sum
        self.num_steps = num_steps
        self._pending: list[tuple[Tensor, int, float]] = []

    def add(self, loss: Tensor, step: int, lr: float) -> None:
        """Takes a loss, float32 [], of a step counted from the run's beginning and its learning rate."""
        self._pending.append((loss.detach(), step, lr))

    def exchange(self, fabric: Fabric, *wishes: bool, of_any: Sequence[bool] = ()) -> list[bool]:
        """Averages the pending losses over the ranks and adds them up; returns the wishes to every rank.

        Of `wishes` those of rank 0, then `of_any` as one rank or more has them.

        One message for both, and the only wait for the device. Losses are added one by one in double precision, so
        that the sum does not depend on how the steps were grouped. Raises WorkError, on every rank, at the first
        loss that is not finite.
        """
        losses = torch.stack([loss for loss, _, _ in self._pending])
        heard = [wish and fabric.is_global_zero for wish in wishes] + list(of_any)
        wanted = losses.new_tensor([float(wish) for wish in heard])
        message = torch.cat([losses / fabric.world_size, wanted])
        if fabric.world_size > 1:
            message = cast(Tensor, fabric.all_reduce(message, reduce_op="sum"))
        values = message.tolist()
        self._add_up(values[: len(losses)])
        return [value > 0 for value in values[len(losses) :]]

    def _add_up(self, losses: list[float]) -> None:
        for value, (_, step, lr) in zip(losses, self._pending, strict=True):
            if not math.isfinite(value):
                raise WorkError(
                    f"the loss is {value} at step {step} (lr {lr:.3g}), which is in no checkpoint; lower lr, "
                    "set grad_clip, or use precision float32 or bfloat16, with another --out"
                )
            self.loss_sum += value
        self.num_steps += len(losses)
        self._pending.clear()
