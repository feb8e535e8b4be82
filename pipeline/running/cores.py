"""The processor's cores that this process may use."""

import os

from pipeline.running.launched import launched_as


def num_cores() -> int:
    """Fewer than the machine has where a scheduler or a container says so; 1 where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_of_process() -> int:
    """The share of them that this process has among those that torchrun or `--gpus` started on its machine; 1 at least.

    Raises InputError for an environment that does not say it.
    """
    return max(1, num_cores() // launched_as().local_world_size)
