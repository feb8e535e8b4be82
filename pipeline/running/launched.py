"""Which of several processes this one is, as torchrun and `--gpus` say it, and what all of them found put together."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from ci2p_cache.errors import InputError

T = TypeVar("T")
_DIGITS = re.compile("[0-9]{1,9}")
_UNSET = "unset RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE for one process alone, or let torchrun set them"
_PATIENCE = timedelta(days=7)  # of a process whose share was small


@dataclass(frozen=True)
class Launched:
    """This process among those that do one piece of work."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # on its machine
    local_world_size: int = 1


ALONE = Launched()


def launched_as() -> Launched:
    """As torchrun sets it in the environment; one process alone when it did not launch this one.

    Raises InputError for values that torchrun never sets: a share of the work would be nobody's, or two processes'; and
    for one of several tasks of `srun`, which would all do the same.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        _refuse_tasks_of_srun()
    world_size = _number("WORLD_SIZE", 1, least=1)
    if world_size > 1 and "RANK" not in os.environ:
        raise InputError(f"WORLD_SIZE is {world_size} and RANK is not set; {_UNSET}")
    local_world_size = _number("LOCAL_WORLD_SIZE", 1, least=1, most=world_size)
    return Launched(
        rank=_number("RANK", 0, most=world_size - 1),
        world_size=world_size,
        local_rank=_number(
            "LOCAL_RANK", 0, most=(local_world_size if "LOCAL_WORLD_SIZE" in os.environ else world_size) - 1
        ),
        local_world_size=local_world_size,
    )


def _refuse_tasks_of_srun() -> None:
    """A job that asks for several tasks as cores, and runs one process, has no step of several."""
    count, rank = (os.environ.get(name, "") for name in ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"))
    if (_DIGITS.fullmatch(count) and int(count) > 1) or (_DIGITS.fullmatch(rank) and int(rank) > 0):
        raise InputError(
            f"srun has started several tasks (SLURM_PROCID is {rank[:20]!r}), and each would do the same: start one on "
            "each machine, with torchrun --no-python ci2p ... or --gpus N; or set RANK=0 and WORLD_SIZE=1 for runs of "
            "their own"
        )


def _number(name: str, default: int, *, least: int = 0, most: int | None = None) -> int:
    text = os.environ.get(name)
    if text is None:
        return default
    if _DIGITS.fullmatch(text) and least <= int(text) and (most is None or int(text) <= most):
        return int(text)
    upper = f" to {most}" if most is not None else " or more"
    size = f" of a WORLD_SIZE of {os.environ.get('WORLD_SIZE', 1)}" if most is not None else ""
    raise InputError(f"{name} is {text[:20]!r} in the environment: a number, {least}{upper}{size}; {_UNSET}")


def gather(found: T, launched: Launched) -> list[T]:
    """What each process found, in the order of their ranks; every process gets the list."""
    if launched.world_size == 1:
        return [found]
    import torch.distributed

    gathered: list[T | None] = [None] * launched.world_size
    with _group():
        torch.distributed.all_gather_object(gathered, found)
    return [each for each in gathered if each is not None]


@contextmanager
def _group() -> Iterator[None]:
    """A group of all processes that can pass on objects: what is there already, or one for the time being."""
    import torch.distributed

    if torch.distributed.is_initialized():
        yield
        return
    torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
