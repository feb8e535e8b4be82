"""What two processes of torchrun do together in tests/test_train.py, forked where torch is imported already."""

import copy
import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ci2p_cache.errors import InputError, WorkError
from pipeline.models import create_model
from pipeline.models.global_batch import see_global_batch
from pipeline.running.launched import launched_as
from pipeline.running.peers import lost_peers
from pipeline.train.loop import TrainResult, train
from tests.toy_training import EVERYTHING, ToyData, build_small, toy_recipe


def train_by_torchrun(arguments: list[str]) -> None:
    """What `torchrun --nproc-per-node 2 --max-restarts 1` does with `_train_together(run, case)`."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        max_restarts=1,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="fork",
    )
    elastic_launch(config, _train_together)(*arguments)


def _train_together(run: str, case: str) -> None:
    """The "killed" one loses its second process once; the "stopped" one stops after an epoch."""
    rank, is_first = int(os.environ["RANK"]), os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    fault = ("SIGKILL", 1, 2) if case == "killed" and is_first and rank else None

    def train_into(run: Path, **settings: object) -> TrainResult:
        calls = [lambda metrics: case == "stopped"]
        recipe, data = toy_recipe(**EVERYTHING, **settings), ToyData(input_shape=(8, 8, 8), fault=fault)
        return train(recipe, data, run, device="cpu", build=build_small, callbacks=calls)

    if case == "killed":
        assert train_into(Path(run)).finished
        return
    with pytest.raises(InputError, match="batch_size = 9 does not divide by 2 processes"):
        train_into(Path(run), batch_size=9)
    assert not train_into(Path(run)).finished
    _see_the_whole_batch(rank)
    elsewhere = Path(run).parent / "not shared"
    with pytest.raises(InputError, match="would go on in epoch") as refused:
        train_into(elsewhere if rank else Path(run))
    first, second = str(refused.value).split(", and process 1 ")
    assert first.startswith("process 0 would go on in epoch 2 after step 0 (") and second.startswith("at the begin")
    assert not elsewhere.exists()
    short = torch.distributed.new_group(backend="gloo", timeout=timedelta(seconds=1))
    if rank:
        time.sleep(4)
        return
    said = r"process 0 of 2 has lost another one: nothing came from it for 600 s \(CI2P_PEER"
    with pytest.raises(WorkError, match=said), lost_peers(launched_as()):
        torch.distributed.all_reduce(torch.zeros(1), group=short)


def _see_the_whole_batch(rank: int) -> None:
    pixels_BCHW = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    alone = create_model("resnet18", num_classes=3, input_shape=(3, 64, 64), drop_path=0.2).train()
    together = see_global_batch(copy.deepcopy(alone), rank, 2)
    for model, mine in ((alone, pixels_BCHW), (together, pixels_BCHW[rank::2])):
        torch.manual_seed(2)  # for stochastic depth
        model(mine).square().sum().backward()
    for (_, ours), (_, theirs) in zip(together.named_parameters(), alone.named_parameters(), strict=True):
        torch.distributed.all_reduce(ours.grad)
        largest = float(theirs.grad.abs().max())
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3 * largest)
    for ours, theirs in zip(together.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
