"""A step of training: what it is computed with, and that nothing in it waits for the device."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.models.token_drop import drop_tokens
from pipeline.models.variant import Variant
from pipeline.train import learner
from pipeline.train.launch import launch
from pipeline.train.learner import Learner
from pipeline.train.optimizer import build_optimizer, restore_optimizer
from pipeline.train.recipe import Recipe
from tests.toy_training import EVERYTHING, ToyBatch, build_small, toy_recipe

# Of operators whose result the host reads: those of `item`, `if tensor:`, indexing by a mask and the like.
WAITING = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2", "unique_dim")


class Waits(TorchDispatchMode):
    """Counts the operators that would wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.removeprefix("aten::") in WAITING:
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def everything(recipe: Recipe, device: str) -> tuple[Learner, ToyBatch]:
    """A small model that drops tokens and paths, and a batch."""
    shape = (8, 8, 8)
    model = build_small(
        "ci2p_vit_tiny", num_classes=3, input_shape=shape, drop_path=0.3, variant=Variant(), pretrained=False
    )
    drop_tokens(model, 0.3)
    ours = Learner(launch(device, recipe.precision), model, recipe, steps_per_epoch=10, num_classes=3)
    return ours, ToyBatch(torch.randn(8, *shape, device=device), (torch.arange(8) % 3).to(device))


def test_no_step_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a recipe can switch on, with the optimiser that CUDA has; float16's scaler alone would wait."""
    monkeypatch.setattr(learner, "build_optimizer", lambda model, recipe, _: build_optimizer(model, recipe, "cuda"))
    recipe = toy_recipe(**EVERYTHING | {"grad_clip": 1.0, "precision": "bfloat16", "window": 0})
    ours, batch = everything(recipe, "cpu")
    with Waits() as waits:
        for step in range(4):
            ours.learn(batch, step, seed=step)
        assert waits.seen == []
        assert torch.zeros(1).item() == 0 and waits.seen == ["aten._local_scalar_dense.default"]


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
