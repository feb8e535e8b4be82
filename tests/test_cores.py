"""Cores: what a container's share of the processor's time comes to, in a /proc and a /sys of our own."""

import os
from pathlib import Path

import pytest

from pipeline.running.cores import num_cores

V2 = ("0::/job/step\n", "35 24 0:30 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n")
V1 = ("7:cpu,cpuacct:/job/step\n", "35 32 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n")


@pytest.mark.parametrize(
    ("tree", "files", "cores"),
    [
        (V2, {"/job/step/cpu.max": "max 100000\n"}, 64),
        (V2, {"/job/step/cpu.max": "250000 100000\n"}, 2),
        (V2, {"/job/step/cpu.max": "max 100000\n", "/job/cpu.max": "400000 50000\n"}, 8),
        (V2, {"/cpu.max": "50000 100000\n"}, 1),
        (V2, {}, 64),
        (V1, {"/job/cpu.cfs_quota_us": "300000\n", "/job/cpu.cfs_period_us": "100000\n"}, 3),
        (V1, {"/job/step/cpu.cfs_quota_us": "-1\n", "/job/step/cpu.cfs_period_us": "100000\n"}, 64),
    ],
)
def test_a_share_of_time_is_so_many_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: tuple[str, str], files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    cgroup, mounts = tree
    top = "sys/fs/cgroup" + ("/cpu,cpuacct" if tree is V1 else "")
    written = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts}
    for name, text in (written | {top + name: text for name, text in files.items()}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert num_cores(tmp_path) == cores
