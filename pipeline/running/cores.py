"""The processor's cores that this process may use."""

import os


def num_cores() -> int:
    """Fewer than the machine has where a scheduler or a container says so; 1 where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
