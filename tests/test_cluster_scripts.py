"""The job scripts that stand beside the examples: what they start is what the programs take."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from tests.conftest import REPOSITORY
from tests.test_documented_commands import parse_ci2p

SCRIPTS = sorted((REPOSITORY / "examples/cluster").glob("*.sh"))
# Says what it was given, so that no script goes any further.
_PROGRAM = """#!/bin/bash
printf '%s\\n' "RANK=${RANK:-} WORLD_SIZE=${WORLD_SIZE:-}" "$(basename "$0")" "$@"
"""


def started(script: str, tmp_path: Path, *arguments: str, **environment: str) -> tuple[str, list[str]]:
    """(RANK and WORLD_SIZE, command line) of what a script ends in."""
    for name in ("ci2p", "srun", "ray"):
        (tmp_path / name).write_text(_PROGRAM)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "scontrol").write_text("#!/bin/bash\necho node1\necho node2\n")
    (tmp_path / "scontrol").chmod(0o755)
    path = next(path for path in SCRIPTS if path.stem == script)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"} | environment
    done = subprocess.run(["bash", str(path), *arguments], env=env, capture_output=True, text=True, check=True)
    ranks, *words = done.stdout.splitlines()
    return ranks, words


def test_scripts_are_whole() -> None:
    assert [path.stem for path in SCRIPTS] == ["ray_encode", "slurm_encode_array", "slurm_train"]
    for path in SCRIPTS:
        subprocess.run(["bash", "-n", str(path)], check=True)
        lines = path.read_text().splitlines()
        begin = next(number for number, line in enumerate(lines) if not line.startswith("#"))
        assert lines[0] == "#!/bin/bash" and not any(line.startswith("#SBATCH") for line in lines[begin:]), path
        for line in lines[:begin]:
            assert not line.startswith("#SBATCH") or re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", line), line
        usage = next(line for line in lines if line.startswith(("#   sbatch ", "#   bash ")))
        assert f"examples/cluster/{path.name} " in usage


def test_a_slurm_array_shares_the_shards_out(tmp_path: Path) -> None:
    slurm = {"SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_ID": "5", "SLURM_CPUS_PER_TASK": "4"}
    ranks, words = started("slurm_encode_array", tmp_path, "folder", "a b", "out", **slurm)
    assert ranks == "RANK=5 WORLD_SIZE=8"
    assert words == ["ci2p", *shlex.split("encode --dataset folder --data-dir 'a b' --out out --workers 4")]
    parse_ci2p(shlex.join(words), True)
    alone = slurm | {"SLURM_ARRAY_TASK_COUNT": "1", "WORLD_SIZE": "8"}
    assert started("slurm_encode_array", tmp_path, "folder", "a", "o", **alone)[0] == ranks
    with pytest.raises(subprocess.CalledProcessError):
        started("slurm_encode_array", tmp_path, "folder", **slurm)


def test_a_slurm_job_trains_by_a_torchrun_a_machine(tmp_path: Path) -> None:
    slurm = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "7"}
    _, words = started("slurm_train", tmp_path, "cache", "run", **slurm)
    assert words[:2] == ["srun", "torchrun"]
    parsed = get_args_parser().parse_args(words[2:])
    assert (parsed.nnodes, parsed.nproc_per_node, parsed.rdzv_endpoint) == ("2", "8", "node1:29500")
    assert parsed.no_python and parsed.training_script == "ci2p"
    parse_ci2p(shlex.join(["ci2p", *parsed.training_script_args]), True)


def test_a_ray_job_encodes(tmp_path: Path) -> None:
    _, words = started("ray_encode", tmp_path, "http://head:8265", "folder", "s3://b/i", "s3://b/c")
    assert words[:5] == ["ray", "job", "submit", "--address", "http://head:8265"]
    parse_ci2p(shlex.join(words[words.index("--") + 1 :]), True)
