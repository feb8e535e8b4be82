"""The processor's cores that this process may use."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from ci2p_cache.cgroups import ROOT, groups, lines_of
from pipeline.running.launched import launched_as


def num_cores(root: Path = ROOT) -> int:
    """Fewer than the machine has where a scheduler or a container says so, by a list or by a share of their time.

    `root` is where /proc and /sys are looked for. 1 where the system does not tell.
    """
    listed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min([listed, *_shares(root)])))


def _shares(root: Path) -> Iterator[float]:
    """Cores' worth of time that each group of this process may take, where it has a limit: `docker run --cpus 2.5`."""
    for folder, version in groups("cpu", root):
        if version == 2:
            quota, period = (" ".join(lines_of(folder / "cpu.max")).split() or ["max", "1"])[:2]
        else:
            quota, period = (
                "".join(lines_of(folder / name)).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            )
        if quota.isdigit() and period.isdigit() and int(period):  # neither "max", nor -1
            yield int(quota) / int(period)


def cores_of_process() -> int:
    """The share of them that this process has among those that torchrun or `--gpus` started on its machine; 1 at least.

    Raises InputError for an environment that does not say it.
    """
    return max(1, num_cores() // launched_as().local_world_size)
