"""Free memory: the limits of containers and schedulers, in a /proc and a /sys of our own."""

from pathlib import Path

import pytest

from ci2p_cache import free_memory
from ci2p_cache.free_memory import free_memory_bytes, resident_limit_bytes

GIB = 1 << 30
V2 = "35 24 0:30 {shown} /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate\n"
V1 = (
    "36 32 0:33 {shown} /sys/fs/cgroup/memory rw shared:7 - cgroup cgroup rw,memory\n"
    "35 32 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
)


def system(root: Path, cgroup: str, mounts: str, files: dict[str, str]) -> Path:
    """A machine of 64 GiB, of which 40 are free."""
    meminfo = {"proc/meminfo": f"MemTotal: {64 << 20} kB\nMemAvailable: {40 << 20} kB\n"}
    for name, text in (meminfo | {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts} | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def v2(folder: str, limit: int | str, used: int, cached: int = 0) -> dict[str, str]:
    stat = f"anon {used - cached}\nfile {cached + 5}\ninactive_file {cached}\nactive_file 0\n"
    return {
        f"sys/fs/cgroup{folder}/memory.max": f"{limit}\n",
        f"sys/fs/cgroup{folder}/memory.current": f"{used}\n",
        f"sys/fs/cgroup{folder}/memory.stat": stat,
    }


def v1(folder: str, limit: int, used: int, cached: int = 0) -> dict[str, str]:
    return {
        f"sys/fs/cgroup/memory{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"sys/fs/cgroup/memory{folder}/memory.usage_in_bytes": f"{used}\n",
        f"sys/fs/cgroup/memory{folder}/memory.stat": f"cache 1\ninactive_file 7\ntotal_inactive_file {cached}\n",
    }


NO_LIMIT_V1 = 0x7FFFFFFFFFFFF000
SLURM = "/system.slice/slurmstepd.scope/job_7/step_0/user/task_0"
JOB = "/slurm/uid_1000/job_7"
CASES = {
    "no groups": ("", "", {}, 40 * GIB),
    "docker, v2": ("0::/\n", V2.format(shown="/"), v2("", 8 * GIB, 3 * GIB, cached=GIB), 6 * GIB),
    "no limit, v2": ("0::/\n", V2.format(shown="/"), v2("", "max", 3 * GIB), 40 * GIB),
    "slurm, v2: the job has the limit, not its task": (
        f"0::{SLURM}\n",
        V2.format(shown="/"),
        v2(SLURM, "max", GIB) | v2(SLURM.rpartition("/step_0")[0], 10 * GIB, 2 * GIB),
        8 * GIB,
    ),
    "the lowest of two": (
        "0::/a/b\n",
        V2.format(shown="/"),
        v2("/a", 10 * GIB, 9 * GIB) | v2("/a/b", 5 * GIB, GIB),
        GIB,
    ),
    "more is used than allowed": ("0::/a\n", V2.format(shown="/"), v2("/a", GIB, 2 * GIB), 0),
    "docker, v1: the path is the host's, the mount its end": (
        "4:memory:/docker/abc\n1:cpu:/docker/abc\n0::/elsewhere\n",
        V1.format(shown="/docker/abc"),
        v1("", 4 * GIB, 3 * GIB, cached=GIB),
        2 * GIB,
    ),
    "slurm, v1": (
        f"4:memory,hugetlb:{JOB}/step_0/task_0\n",
        V1.format(shown="/"),
        v1(f"{JOB}/step_0/task_0", NO_LIMIT_V1, GIB) | v1(JOB, 6 * GIB, GIB) | v1("", NO_LIMIT_V1, 20 * GIB),
        5 * GIB,
    ),
    "a group outside of what is mounted": ("0::/../other\n", V2.format(shown="/"), v2("", 8 * GIB, GIB), 7 * GIB),
}


@pytest.mark.parametrize(("cgroup", "mounts", "files", "free"), CASES.values(), ids=CASES)
def test_the_lowest_limit_counts(tmp_path: Path, cgroup: str, mounts: str, files: dict[str, str], free: int) -> None:
    assert free_memory_bytes(system(tmp_path, cgroup, mounts, files)) == free


def test_processes_share_the_half_of_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "free_memory_bytes", lambda: 40 * GIB)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert resident_limit_bytes() == 5 * GIB
    assert resident_limit_bytes(is_shared=True) == 20 * GIB
