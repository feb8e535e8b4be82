"""`--gpus`: the same command in a process a GPU; which of several processes speaks for all."""

import os
from pathlib import Path

import click

from pipeline.running.launched import launched_as

STARTED_BY_GPUS = "CI2P_PROCESS_STARTED"  # `processes.STARTED_HERE`, without importing torch


def runs_elsewhere(gpus: str | None, device: str) -> bool:
    """Whether `--gpus` has had the command done by processes of its own. Raises Ci2pError as they do, and InputError
    where the environment speaks of processes that cannot be."""
    launched_as()
    if gpus is None or STARTED_BY_GPUS in os.environ:
        return False
    from pipeline.running.processes import count_processes, run_processes

    count = count_processes(gpus, device)
    if count > 1:
        door = str(Path(__file__).parents[2] / "ci2p.py")
        run_processes([door, *click.get_current_context().find_root().obj], count)
    return count > 1


def is_first() -> bool:
    """Whether this process speaks for all that do the same work."""
    return launched_as().rank == 0
