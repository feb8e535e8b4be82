"""Which of several processes this one is, as torchrun and `--gpus` say it, and what all of them found put together."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed

T = TypeVar("T")
_PATIENCE = timedelta(days=7)  # of a process whose share was small


@dataclass(frozen=True)
class Launched:
    """This process among those that do one piece of work."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # on its machine


ALONE = Launched()


def launched_as() -> Launched:
    """As torchrun sets it in the environment; one process alone when it did not launch this one."""
    rank, world_size, local_rank = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return Launched(int(rank or 0), int(world_size or 1), int(local_rank or 0))


def gather(found: T, launched: Launched) -> list[T]:
    """What each process found, in the order of their ranks; every process gets the list."""
    if launched.world_size == 1:
        return [found]
    gathered: list[T | None] = [None] * launched.world_size
    with _group():
        torch.distributed.all_gather_object(gathered, found)
    return [each for each in gathered if each is not None]


@contextmanager
def _group() -> Iterator[None]:
    """A group of all processes that can pass on objects: what is there already, or one for the time being."""
    if torch.distributed.is_initialized():
        yield
        return
    torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
