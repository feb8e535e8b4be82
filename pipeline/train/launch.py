"""Launch: the device, the precision and the other processes, through Lightning Fabric."""

import inspect
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ci2p_cache.errors import InputError
from ci2p_cache.printable import counted
from pipeline.running import signals
from pipeline.running.bfloat16 import warn_of_slow_bfloat16
from pipeline.running.devices import named_device
from pipeline.running.launched import Launched, launched_as
from pipeline.running.peers import lost_peers, meet
from pipeline.train.precision import refuse_unable

_FABRIC_PRECISION: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "float32": "32-true",
    "tf32": "32-true",
    "bfloat16": "bf16-mixed",
    "float16": "16-mixed",
}

# A gradient lies in the buffer that is sent, and is not copied there. Running statistics are those of the global batch
# on every rank: they need not be sent before each step, and are made equal to the bit before they are evaluated. Not
# `static_graph`, which is for parameters that a step does not use: there are none.
_HAS_FORWARD_SYNC = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # torch 2.13 on
DDP_OPTIONS: dict[str, Any] = {
    "gradient_as_bucket_view": True,
    "forward_sync_buffers" if _HAS_FORWARD_SYNC else "broadcast_buffers": False,
}


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without what Lightning says of its own choices, which are ours; its warnings come through."""
    lightning = logging.getLogger("lightning_fabric")
    before = lightning.level
    lightning.setLevel(logging.WARNING)
    try:
        yield
    finally:
        lightning.setLevel(before)


@_quiet_lightning()
def launch(device: str, precision: str) -> Fabric:
    """Joins the processes that torchrun started, or stands alone.

    `device` is auto, cpu, cuda, cuda:N or mps; under torchrun each process takes the device of its local rank. With
    precision tf32 or float32 the steps belong into `float32_products`. Raises InputError for a device that is not
    there, or a precision that it cannot do, and where machines have different numbers of processes, or more than GPUs.
    """
    resolved = named_device(device, auto_mps=True)
    accelerator, _, index = resolved.partition(":")
    launched = launched_as()
    world_size, local_world_size = launched.world_size, launched.local_world_size
    _refuse_uneven(launched)
    if accelerator == "cuda" and local_world_size > (there := torch.cuda.device_count()):
        raise InputError(
            f"{local_world_size} processes on this machine, and torch finds {counted(there, 'GPU')}: start as many as "
            f"there are GPUs (torchrun --nproc-per-node {there}, or --gpus all), or give --device cpu"
        )
    refuse_unable(resolved, precision)
    if index and world_size > 1:
        raise InputError(f"--device {device} under torchrun would put every process on it; use --device {accelerator}")
    fabric = Fabric(
        accelerator=accelerator,
        devices=[int(index)] if index else local_world_size,
        num_nodes=world_size // local_world_size,
        strategy=DDPStrategy(**DDP_OPTIONS) if world_size > 1 else "auto",
        precision=_FABRIC_PRECISION[precision],
        # Not as Fabric would guess from the environment: `launched_as` has said it, and a Slurm job of several tasks,
        # asked for as cores, is one process all the same.
        plugins=[TorchElasticEnvironment() if world_size > 1 else LightningEnvironment()],
    )
    with lost_peers(launched):
        meet(launched, accelerator)
        fabric.launch()
    if fabric.is_global_zero:
        warn_of_slow_bfloat16(fabric.device, precision)
    return fabric


def _refuse_uneven(launched: Launched) -> None:
    """Raises InputError unless every machine has as many processes; torchrun says how many machines there are."""
    world, local = launched.world_size, launched.local_world_size
    machines = os.environ.get("GROUP_WORLD_SIZE", "")
    if world != local * int(machines) if machines.isdigit() else world % local:
        raise InputError(
            f"{counted(world, 'process')} in all, and {local} on this machine: training wants as many on each; give "
            "torchrun the same --nproc-per-node everywhere"
        )


def agreed(fabric: Fabric) -> int | None:
    """The signal that any of the processes was told to end by, the same on all."""
    each = torch.tensor(signals.told_each(), dtype=torch.int64, device=fabric.device)
    if fabric.world_size > 1:
        each = cast(Tensor, fabric.all_reduce(each, reduce_op="sum"))
    return signals.first_of([bool(count) for count in each.tolist()])


def step_seed(seed: int, epoch: int, step: int) -> int:
    """The seed of whatever one step draws, the same on every rank; no state to save, none to lose.

    Each rank draws for all samples of the global batch, and takes what is its own samples'.
    """
    return int(np.random.SeedSequence([seed, epoch, step, 0]).generate_state(1, np.uint64)[0])


@contextmanager
def deterministic_on_cpu(device: torch.device) -> Iterator[None]:
    """Bit-for-bit repeatable kernels on the CPU, where they cost nothing; a GPU's atomics are left alone."""
    settings: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        settings.fill_uninitialized_memory = before[1]
