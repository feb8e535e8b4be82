"""Weight average: an exponential moving average of a model's weights, which is evaluated and kept in their place."""

from typing import Any

from timm.utils import ModelEmaV3
from torch import nn


class WeightAverage:
    """A second set of weights that follows a model's at a distance (Polyak averaging), through timm's ModelEmaV3.

    The running statistics of BatchNorm are averaged as the weights are; counters are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begins with a copy of `model`, which must be on its device already."""
        self._average = ModelEmaV3(model, decay=decay, use_warmup=True)

    @property
    def model(self) -> nn.Module:
        """The model with averaged weights."""
        module: nn.Module = self._average.module
        return module

    def update(self, model: nn.Module, step: int) -> None:
        """Moves towards `model` after its step number `step` in the run, counted from 0.

        The decay is a function of the step, 1 - (1 + step) ** (-2/3) until that reaches the full one, so that a short
        run does not go on remembering its random beginning: 0 at the first step, 0.9 after 31, 0.99 after 1,000,
        0.999 after 31,600.
        """
        self._average.update(model, step=step + 1)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and statistics under the model's own names; the tensors are the live ones."""
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        self.model.load_state_dict(state)
