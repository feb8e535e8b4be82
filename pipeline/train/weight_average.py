"""Weight average: an exponential moving average of a model's weights, which is evaluated and kept in their place."""

from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn


class WeightAverage:
    """A second set of weights that follows a model's at a distance (Polyak averaging), as timm's ModelEmaV3 does.

    The running statistics of BatchNorm are averaged as the weights are; counters are copied. timm's own update, which
    this one equals to the bit, looks all tensors of both models up at every step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begins with a copy of `model`, which must be on its device already and stay there, with its tensors."""
        self._average = ModelEmaV3(model, decay=decay, use_warmup=True)
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        moved = [pair for pair in pairs if pair[0].is_floating_point()]
        copied = [pair for pair in pairs if not pair[0].is_floating_point()]
        (self._ours, self._theirs), (self._our_counts, self._their_counts) = (
            ([ours for ours, _ in some], [theirs for _, theirs in some]) for some in (moved, copied)
        )

    @property
    def model(self) -> nn.Module:
        """The model with averaged weights."""
        module: nn.Module = self._average.module
        return module

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves towards the model after its step number `step` in the run, counted from 0.

        The decay is a function of the step, 1 - (1 + step) ** (-2/3) until that reaches the full one, so that a short
        run does not go on remembering its random beginning: 0 at the first step, 0.9 after 31, 0.99 after 1,000,
        0.999 after 31,600.
        """
        torch._foreach_lerp_(self._ours, self._theirs, weight=1.0 - self._average.get_decay(step + 1))
        if self._our_counts:
            torch._foreach_copy_(self._our_counts, self._their_counts)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and statistics under the model's own names; the tensors are the live ones."""
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        self.model.load_state_dict(state)
