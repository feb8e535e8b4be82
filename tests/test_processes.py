"""`--gpus`: the command starts its own processes, and what they do together is what one would have done."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from ci2p_cache.errors import InputError
from pipeline.running.devices import resolve_device
from pipeline.running.launched import ALONE, Launched, launched_as
from pipeline.running.processes import count_processes
from pipeline.train.launch import launch
from tests.conftest import call_ci2p, files_of, run_ci2p, write_image_folder
from tests.forked import Forked
from tests.test_cli import SMALL, refused

ENCODE = ("encode", "--dataset", "folder", "--data-dir", "images", *SMALL)
TRAIN = ("train", "--shards", "caches/images", "--model", "ci2p_vit_tiny", "--batch-size", "8", "--device", "cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("processes")
    write_image_folder(home / "images", train=9, val=4)
    return home


def test_two_processes_do_what_one_does(home: Path) -> None:
    encoded = run_ci2p(*ENCODE, "--gpus", "2", "--json", "encode.json", cwd=home)
    assert encoded.returncode == 0, encoded.stderr
    assert json.loads((home / "encode.json").read_text())["train"]["num_encoded"] == 27
    assert encoded.stdout.count("train: 27 images") == 1 and encoded.stdout.count("cache:") == 1
    alone = run_ci2p(*ENCODE, "--out", "alone", cwd=home)
    assert alone.returncode == 0 and files_of(home / "caches" / "images").keys() == files_of(home / "alone").keys()
    assert _latents(home / "caches" / "images") == _latents(home / "alone")

    trained = run_ci2p(*TRAIN, "--epochs", "1", "--json", "train.json", cwd=home, CI2P_TRAIN_GPUS="2")
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.count("run: ") == 1
    if hasattr(os, "memfd_create"):
        assert trained.stderr.count("GiB, once for 2 processes") == 2  # train and val, each said by one of them
    assert json.loads((home / "runs" / "ci2p_vit_tiny-images-0" / "config.json").read_text())["world_size"] == 2

    both = run_ci2p("eval", "--device", "cpu", "--batch-size", "4", "--gpus", "2", "--json", "-", cwd=home)
    one = run_ci2p("eval", "--device", "cpu", "--batch-size", "4", "--json", "-", cwd=home)
    ours, theirs = json.loads(both.stdout), json.loads(one.stdout)
    assert ours["confusion"] == theirs["confusion"] and ours["num_images"] == 12
    assert ours["ece"] == pytest.approx(theirs["ece"], abs=1e-5)


def _latents(cache: Path) -> dict[str, bytes]:
    return {name: data for name, data in files_of(cache).items() if "/c/" in name}


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"WORLD_SIZE": "-2", "RANK": "0"}, "WORLD_SIZE is '-2' in the environment: a number, 1 or more"),
        ({"WORLD_SIZE": "0", "RANK": "0"}, "WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": "2", "RANK": "3"}, "RANK is '3' in the environment: a number, 0 to 1 of a WORLD_SIZE of 2"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK is '-1'"),
        ({"WORLD_SIZE": "2", "RANK": "abc"}, "RANK is 'abc'"),
        ({"WORLD_SIZE": "2", "RANK": ""}, "RANK is ''"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 and RANK is not set"),
        ({"RANK": "1"}, "RANK is '1' in the environment: a number, 0 to 0 of a WORLD_SIZE of 1"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE is '3'"),
        ({"WORLD_SIZE": "4", "RANK": "0", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "2"}, "LOCAL_RANK is '2'"),
        ({"WORLD_SIZE": "1e9", "RANK": "0"}, "WORLD_SIZE is '1e9'"),
        ({"WORLD_SIZE": "9" * 5000, "RANK": "0"}, "WORLD_SIZE is"),
    ],
)
def test_processes_that_cannot_be_are_refused(
    environment: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for command in (
        ("encode", "--dataset", "sample", "--workers", "1"),
        ("train", "--shards", "x"),
        ("eval", "--checkpoint", "x"),
        ("baseline", "--dataset", "sample", "--workers", "1"),
    ):
        assert named in refused(call_ci2p(*command, cwd=tmp_path))
    assert not [*tmp_path.iterdir()]


def test_what_torchrun_sets_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert launched_as() == Launched(5, 8, 1, 4)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name)
    assert launched_as() == ALONE


@pytest.mark.parametrize(
    ("environment", "device", "named"),
    [
        ({"LOCAL_WORLD_SIZE": "3", "GROUP_WORLD_SIZE": "2"}, "cpu", "4 processes in all, and 3 on this machine"),
        ({"LOCAL_WORLD_SIZE": "1", "GROUP_WORLD_SIZE": "2"}, "cpu", "4 processes in all, and 1 on this machine"),
        ({"LOCAL_WORLD_SIZE": "3"}, "cpu", "give torchrun the same --nproc-per-node everywhere"),
        ({"LOCAL_WORLD_SIZE": "4"}, "cuda", r"4 processes on this machine, and torch finds 2 GPUs: start as many as"),
    ],
)
def test_processes_without_a_place_are_refused(
    environment: dict[str, str], device: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in ({"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"} | environment).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=named):
        launch(device, "float32")
    with pytest.raises(InputError, match=r"more processes on this machine than its 2 GPUs: process 2 finds none"):
        resolve_device("cuda", local_rank=2)


def test_what_ends_one_process_is_said_once(home: Path) -> None:
    finished = run_ci2p("eval", "--checkpoint", "nowhere", "--device", "cpu", "--gpus", "2", cwd=home)
    assert "nowhere does not exist" in refused(finished)
    assert finished.stderr.count("nowhere does not exist") == 1


def test_an_interrupt_ends_all_processes(home: Path) -> None:
    command = [*TRAIN, "--epochs", "5000", "--out", "long", "--gpus", "2", "--set", "checkpoint_every_steps=2"]
    process = Forked(command, cwd=home, start_new_session=True)
    while not (home / "long" / "last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    children = _children(process.pid)
    assert len(children) >= 2
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 1 and "Traceback" not in errors
    assert errors.strip().endswith("Error: interrupted; run the same command again to continue")
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(
    ("gpus", "device", "there", "message"),
    [
        ("all", "auto", 0, "--gpus all: torch finds no GPU on this machine; leave the option out"),
        ("2", "auto", 0, "--gpus 2: torch finds no GPU"),
        ("2", "cuda", 1, "--gpus 2: torch finds 1 GPU on"),
        ("2", "cuda:0", 4, "--gpus 2 puts a process on each GPU, and --device cuda:0 names one"),
        ("two", "auto", 4, "--gpus two: give a number of processes from 1 on, or all"),
        ("0", "cpu", 0, "--gpus 0: give a number"),
        ("-1", "cpu", 0, "--gpus -1: give a number"),
        ("²", "cpu", 0, "--gpus ²: give a number"),
        ("all", "cpu", 0, "--gpus all: --device cpu has no GPUs to count"),
    ],
)
def test_what_cannot_be_started_is_refused(
    gpus: str, device: str, there: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(InputError) as raised:
        count_processes(gpus, device)
    assert str(raised.value).startswith(message)


def test_as_many_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [count_processes(gpus, "auto") for gpus in ("all", "1", "4")] == [4, 1, 4]
    assert count_processes("3", "cpu") == 3
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match="torchrun has started this process already"):
        count_processes("2", "auto")
