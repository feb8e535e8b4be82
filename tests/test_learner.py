"""A step of training: what it is computed with, and that nothing in it waits for the device."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from pipeline.train.optimizer import build_optimizer, restore_optimizer
from tests.toy_training import toy_recipe


@pytest.mark.parametrize(
    ("settings", "device_type", "fused"),
    [
        ({}, "cpu", None),
        ({"grad_clip": 1.0, "precision": "bfloat16"}, "cuda", True),
        ({"precision": "float16"}, "cuda", True),
        ({"grad_clip": 1.0, "precision": "float16"}, "cuda", None),  # Fabric would refuse to clip
    ],
)
def test_adamw_is_one_kernel_where_it_can_be(settings: dict[str, object], device_type: str, fused: bool | None) -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), toy_recipe(**settings), device_type)
    assert isinstance(optimizer, AdamW) and {group["fused"] for group in optimizer.param_groups} == {fused}
    assert getattr(optimizer, "_step_supports_amp_scaling", False) is bool(fused)


@pytest.mark.parametrize("device_types", [("cpu", "cuda"), ("cuda", "cpu")])
def test_adamw_goes_on_from_the_state_of_the_other_kind(device_types: tuple[str, str]) -> None:
    """The fused kernel is there on a CPU too."""

    def learn(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            generator = torch.Generator().manual_seed(step)
            model(torch.randn(4, 3, generator=generator)).square().sum().backward()
            optimizer.step()

    def begin(device_type: str) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        return model, build_optimizer(model, toy_recipe(lr=0.1), device_type)

    whole, first, second = (begin(device_type) for device_type in (device_types[1], *device_types))
    learn(*whole, range(8))
    learn(*first, range(4))
    second[0].load_state_dict(first[0].state_dict())
    restore_optimizer(second[1], first[1].state_dict())
    assert {group["fused"] for group in second[1].param_groups} == {True if device_types[1] == "cuda" else None}
    learn(*second, range(4, 8))
    torch.testing.assert_close(second[0].state_dict(), whole[0].state_dict(), rtol=1e-5, atol=1e-6)
    steps = [cast(dict[str, Any], state)["step"] for state in second[1].state.values()]
    assert all(isinstance(step, Tensor) and step == 8 for step in steps)
