"""Whether something iterable goes on from a saved state as if it had never stopped: tried at every step there is."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from ci2p_cache.errors import InputError, WorkError


def check_resume(make: Callable[[], Any], most_steps: int) -> int:
    """See `ci2p.check_resume`."""
    walked = make()
    for method in ("__iter__", "state_dict", "load_state_dict"):
        if not hasattr(walked, method):
            raise InputError(f"ci2p.check_resume: {type(walked).__name__} has no {method}")
    states, items = [copy.deepcopy(walked.state_dict())], []
    for item in islice(walked, most_steps):
        items.append(copy.deepcopy(item))
        states.append(copy.deepcopy(walked.state_dict()))
    for step, state in enumerate(states[: len(items)]):
        resumed = make()
        resumed.load_state_dict(copy.deepcopy(state))
        _compare(step, islice(resumed, len(items) - step), items[step:])
    return len(items)


def _compare(step: int, rest: Iterator[Any], expected: Sequence[Any]) -> None:
    num_items = 0
    for num_items, item in enumerate(rest, start=1):
        if not _same(item, expected[num_items - 1]):
            differs = step + num_items - 1
            raise WorkError(f"the state before item {step} does not go on as before: item {differs} differs")
    if num_items < len(expected):
        raise WorkError(
            f"the state before item {step} does not go on as before: {len(expected)} more came, now {num_items} come"
        )


def _same(left: Any, right: Any) -> bool:
    """Equal to the bit, however nested; a NaN is equal to itself."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        if (left.dtype, left.shape) != (right.dtype, right.shape):
            return False
        # numpy has no bfloat16, and a tensor without dimensions no view of another width.
        left, right = (each.detach().cpu().reshape(-1).view(torch.uint8).numpy() for each in (left, right))
    if isinstance(left, np.ndarray):
        return bool(left.shape == right.shape and left.dtype == right.dtype and left.tobytes() == right.tobytes())
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, Sequence) and not isinstance(left, str | bytes):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)
