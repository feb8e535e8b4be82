"""Layers of the global batch: several processes compute what one computes of the whole batch, and compile as one graph.

The processes are forked from the server of tests/forked.py, which has imported torch, so that four of them take no
longer to start than one.
"""

# B batch of all ranks (24), C channels, H=W grid, W ranks

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import tests.forked  # noqa: F401
from pipeline.models.global_batch import see_global_batch
from pipeline.models.inverted_residual import InvertedResidual
from pipeline.train.launch import DDP_OPTIONS

# isort: split
from timm.layers import DropPath, PatchDropout

Check = Callable[[int, int], None]


def on_ranks(check: Check, world_size: int, folder: Path) -> None:
    """Runs `check(rank, world_size)` in as many processes that know one another; what one raises is raised."""
    torch.multiprocessing.start_processes(  # type: ignore[no-untyped-call]
        _join, (check, world_size, f"file://{folder}/store{world_size}"), nprocs=world_size, start_method="forkserver"
    )


def _join(rank: int, check: Check, world_size: int, store: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    check(rank, world_size)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


class Small(nn.Module):
    """Whatever a rank would see a part of: statistics of BatchNorm, stochastic depth, dropped tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.block = InvertedResidual(8, 16, 12, 5, 2)
        self.drop_tokens = PatchDropout(0.3, num_prefix_tokens=0)
        self.drop_path = DropPath(0.3)
        self.head = nn.Linear(12, 3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        tokens_BND = self.drop_tokens(self.block(x_BCHW).flatten(2).transpose(1, 2))
        return cast(Tensor, self.head((tokens_BND + self.drop_path(tokens_BND.tanh())).mean(1)))


def a_step(model: nn.Module, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Learns nothing, but leaves gradients: (logits, the input's gradient)."""
    x_BCHW = x_BCHW.clone().requires_grad_()
    torch.manual_seed(5)
    logits_BK = model(x_BCHW)
    (logits_BK * torch.arange(1.0, 4.0)).square().mean().backward()
    assert x_BCHW.grad is not None
    return logits_BK.detach(), x_BCHW.grad


def small(rank: int = 0, world_size: int = 1) -> nn.Module:
    torch.manual_seed(1)
    return see_global_batch(Small(), rank, world_size).train()


def whole_batch() -> Tensor:
    return 2 * torch.randn(24, 8, 6, 6, generator=torch.Generator().manual_seed(0)) + 1


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: cast(Tensor, each.grad) for name, each in model.named_parameters()}


def check_is_one_process(rank: int, world_size: int) -> None:
    x_BCHW, one, ours = whole_batch(), small(), small(rank, world_size)
    wrapped = DistributedDataParallel(ours, **DDP_OPTIONS)
    for _ in range(2):
        logits_BK, grad_BCHW = a_step(one, x_BCHW)
        our_logits, our_grad = a_step(wrapped, x_BCHW[rank::world_size])
        torch.testing.assert_close(our_logits, logits_BK[rank::world_size], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(our_grad / world_size, grad_BCHW[rank::world_size], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(gradients(ours), gradients(one), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ours.state_dict(), one.state_dict(), rtol=1e-6, atol=1e-6)


def check_statistics(rank: int, world_size: int) -> None:
    """Of values that are far from zero and lie close together, and of bfloat16 ones."""
    generator = torch.Generator().manual_seed(2)
    for x_BCHW in (1000 + torch.randn(8, 4, 5, 5, generator=generator), torch.randn(8, 4, 5, 5).bfloat16() + 3):
        torch.distributed.broadcast(x_BCHW, src=0)
        ours = cast(Any, see_global_batch(nn.Sequential(nn.BatchNorm2d(4)), rank, world_size))
        with torch.autocast("cpu", enabled=x_BCHW.dtype == torch.bfloat16):
            out = ours(x_BCHW[rank::world_size])
        var_C, mean_C = torch.var_mean(x_BCHW.double(), (0, 2, 3))
        assert out.dtype == x_BCHW.dtype and ours[0].running_mean.dtype == torch.float32
        torch.testing.assert_close(ours[0].running_mean.double(), 0.1 * mean_C, rtol=1e-6, atol=0)
        torch.testing.assert_close(ours[0].running_var.double(), 0.9 + 0.1 * var_C, rtol=1e-6, atol=0)


def check_is_one_graph(rank: int, world_size: int) -> None:
    """The breaks that are left are DDP's own, before and behind the model."""
    from torch._dynamo.utils import counters

    x_BCHW, eager, traced = whole_batch()[rank::world_size], small(rank, world_size), small(rank, world_size)
    compiled = torch.compile(DistributedDataParallel(traced, **DDP_OPTIONS), backend="aot_eager")
    step = a_step(cast(nn.Module, compiled), x_BCHW)
    assert counters["stats"]["unique_graphs"] == 1, counters
    expected = a_step(DistributedDataParallel(eager, **DDP_OPTIONS), x_BCHW)
    for ours, theirs in ((step, expected), (gradients(traced), gradients(eager))):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(traced.state_dict(), eager.state_dict(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("world_size", [2, 4])
def test_several_processes_are_one(tmp_path: Path, world_size: int) -> None:
    on_ranks(check_all if world_size == 2 else check_is_one_process, world_size, tmp_path)


def check_all(rank: int, world_size: int) -> None:
    for check in (check_is_one_process, check_statistics, check_is_one_graph):
        check(rank, world_size)
