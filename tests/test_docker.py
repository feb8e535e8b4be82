"""Dockerfile and compose.yaml: what they copy is there, who runs it is nobody special, and shared memory suffices."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_what_is_copied_is_there_and_is_let_into_the_build() -> None:
    copied = [name for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE) for name in line.split()[:-1]]
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
    assert set(copied) == let_in


def test_the_python_is_the_one_whose_versions_are_pinned() -> None:
    major, minor = re.findall(r"^FROM python:(\d+)\.(\d+)", DOCKERFILE, re.MULTILINE)[0]
    assert f"--constraint constraints/py{major}{minor}.txt" in DOCKERFILE


def test_it_runs_as_a_user_by_number_and_nothing_is_fetched_behind_it() -> None:
    last = DOCKERFILE.rpartition("RUN ")[2]
    assert re.search(r"^USER [1-9]\d*$", last, re.MULTILINE) and "--no-deps ." in last


def test_compose_gives_more_shared_memory_than_docker_does() -> None:
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["ci2p"]
    assert service["shm_size"] == "2gb" and service["volumes"] == ["${CI2P_DATA:-.}:/data"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
