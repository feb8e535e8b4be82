"""Numbers that are none: what a weight or an output must not be, since nothing that is made of it means anything."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ci2p_cache.errors import WorkError


def non_finite(state: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds a value that is infinite or no number; None where all are finite."""
    floating = {name: value for name, value in state.items() if value.is_floating_point()}
    if not floating:
        return None
    # One answer, so that a GPU is waited for once.
    are_finite = torch.stack([torch.isfinite(value).all() for value in floating.values()]).tolist()
    return next((name for name, is_finite in zip(floating, are_finite, strict=True) if not is_finite), None)


def refuse_non_finite_outputs(outputs_BK: Tensor, name: Callable[[int], str]) -> None:
    """Raises WorkError, with the `name` of its row, at the first output that is infinite or no number."""
    is_bad_B = ~torch.isfinite(outputs_BK).all(1)
    if bool(is_bad_B.any()):
        raise WorkError(
            f"what the model says of {name(int(is_bad_B.nonzero()[0]))} is no number: its values are infinite or "
            "none, or the model's grew too large on the way"
        )
