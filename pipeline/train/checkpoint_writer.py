"""Checkpoint writer: a run's checkpoints, and its best weights with them, written by a thread while training goes on.

What is written is a copy in the host's memory, so that the next step may change the weights. One is written at a time;
who asks for the next one waits for it. The names in the run folder change in an order that a kill may break anywhere:

    best.next          the new best weights, where there are any
    last.ckpt          which says by their seal which best weights are its own
    best.safetensors   best.next takes this name: see `pipeline.train.trained_model`
"""

import copy
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from ci2p_cache.errors import Ci2pError
from pipeline.running.lock import Lock
from pipeline.train.checkpoint import Checkpoint, save_checkpoint
from pipeline.train.run_folder import RunConfig, writing_to
from pipeline.train.trained_model import save_next_best, take_next_best

logger = logging.getLogger("ci2p")


class HostCopy:
    """A copy of a nested state in the host's memory, made of what its tensors hold now.

    From a GPU it travels to pinned memory behind the work that is queued there and before the work that comes after,
    and nobody waits for it but `get`.
    """

    def __init__(self, state: Any) -> None:
        self._device: torch.device | None = None
        self._state = self._copied(state)
        self._arrived: torch.cuda.Event | None = None
        if self._device is not None:
            self._arrived = torch.cuda.Event(blocking=True)
            self._arrived.record(torch.cuda.current_stream(self._device))

    def get(self) -> Any:
        """The state, whole."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._state

    def _copied(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.device.type != "cuda":
                return value.detach().to("cpu", copy=True)
            self._device = value.device
            return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value.detach(), non_blocking=True)
        if isinstance(value, dict):
            copied = copy.copy(value)  # of its kind: a state_dict's OrderedDict has the modules' versions beside it
            copied.update((name, self._copied(inner)) for name, inner in value.items())
            return copied
        if isinstance(value, list | tuple):
            return type(value)(self._copied(inner) for inner in value)
        return value


class CheckpointWriter:
    """Of one run, which the `lock` is on; a context manager that waits for what is being written."""

    def __init__(self, run: Path, lock: Lock, config: RunConfig, best: str) -> None:
        """`best` is the seal of the best weights that lie in the folder; empty where there are none."""
        self._run, self._lock, self._config = run, lock, config
        self._best = best
        self._new_best: HostCopy | None = None
        self._thread = ThreadPoolExecutor(1, "ci2p-checkpoint")
        self._pending: Future[None] | None = None
        self._started, self._took = 0.0, 0.0

    @property
    def seconds(self) -> float:
        """That the last checkpoint took to be written, or that one has taken which is being written; 0 before any."""
        if self._pending is not None and not self._pending.done():
            return time.monotonic() - self._started
        return self._took

    def keep_best(self, model: nn.Module) -> None:
        """Takes a copy of the best weights so far, which the next checkpoint is written with."""
        self._new_best = HostCopy(model.state_dict())

    def write(self, checkpoint: Checkpoint) -> None:
        """Takes a copy of a checkpoint whose tensors are the live ones, and has it written. Raises as `wait`."""
        self.wait()
        tensors = HostCopy({name: getattr(checkpoint, name) for name in ("model", "optimizer", "precision", "ema")})
        best, self._new_best = self._new_best, None
        self._started = time.monotonic()
        self._pending = self._thread.submit(self._write, checkpoint, tensors, best)

    def check(self) -> None:
        """Raises as `wait` where writing has failed, without waiting."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Until nothing is being written. Raises WorkError when the disk refused, or another has taken the folder."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, checkpoint: Checkpoint, tensors: HostCopy, best: HostCopy | None) -> None:
        with writing_to(self._run):
            self._lock.check()
            if best is not None:
                self._best = save_next_best(self._run, best.get(), self._config)
            save_checkpoint(self._run, replace(checkpoint, **tensors.get(), best=self._best))
            if best is not None:
                take_next_best(self._run)
        self._took = time.monotonic() - self._started

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._thread:  # which waits, whatever is raised
            try:
                self.wait()
            except Ci2pError as failure:
                if error is None:
                    raise
                logger.warning("%s", failure)
