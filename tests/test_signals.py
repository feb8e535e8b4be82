"""What ends by a signal says so in one line and its status, leaves nothing half, and goes on as if nothing had been."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import ci2p_cache.verify
from pipeline.running import signals
from pipeline.running.signals import Ended, ending_by_signals, finishing
from pipeline.train.checkpoint import load_checkpoint
from tests.conftest import REPOSITORY, call_ci2p, files_of, run_ci2p, write_image_folder
from tests.equal_runs import assert_same_run
from tests.forked import Forked
from tests.toy_training import ToyData, train_toy

TRAIN = ("train", "--model", "ci2p_vit_tiny", "--batch-size", "4", "--device", "cpu")
STATUS = {"SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 138}


@pytest.mark.parametrize(
    ("name", "epoch", "step", "reached"),
    [("SIGTERM", 0, 0, (0, 1)), ("SIGHUP", 1, 2, (1, 3)), ("SIGUSR1", 2, 3, (2, 4)), ("SIGTERM", 1, 4, (1, 5))],
)
def test_a_run_ends_after_its_step_and_goes_on_bit_for_bit(
    whole_run: Path, tmp_path: Path, name: str, epoch: int, step: int, reached: tuple[int, int]
) -> None:
    with ending_by_signals(), pytest.raises(Ended, match=f"^ended by {name}; run the same command again") as ended:
        train_toy(tmp_path, ToyData(fault=(name, epoch, step)))
    assert ended.value.exit_status == STATUS[name]
    checkpoint = load_checkpoint(tmp_path / "last.ckpt")
    assert checkpoint is not None and (checkpoint.progress.epoch, checkpoint.progress.step) == reached
    assert train_toy(tmp_path).finished
    assert_same_run(tmp_path, whole_run)


def test_an_evaluation_is_broken_off_and_comes_again(whole_run: Path, tmp_path: Path) -> None:
    with ending_by_signals(), pytest.raises(Ended):
        train_toy(tmp_path, ToyData(fault=("SIGTERM", 0, 0), in_validation=True))
    checkpoint = load_checkpoint(tmp_path / "last.ckpt")
    assert checkpoint is not None and (checkpoint.progress.epoch, checkpoint.progress.step) == (0, 5)
    assert checkpoint.progress.best_top1 < 0
    assert train_toy(tmp_path).finished
    assert_same_run(tmp_path, whole_run)


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with ending_by_signals(), pytest.raises(Ended, match=r"^ended by SIGTERM"):
        train_toy(tmp_path, ToyData(fault=("SIGUSR1 SIGTERM", 0, 2)))
    assert not (tmp_path / "last.ckpt").exists()


def test_a_second_signal_ends_what_does_not_come_back() -> None:
    """As a step of minutes, or a collective operation of which the others are gone."""
    program = (
        "import ctypes, signal\n"
        "from pipeline.running import signals\n"
        "signals._AT_ONCE_S = 0.2\n"
        "with signals.ending_by_signals(), signals.finishing():\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, signals.HEEDED)\n"  # or they would wake it
        "    print('ready', flush=True)\n"
        "    ctypes.CDLL(None).sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143 and errors == "Error: ended by SIGTERM; run the same command again\n"


def test_of_several_processes_each_may_hear_a_signal_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with ending_by_signals(), finishing():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signals.told() == signal.SIGTERM
        monkeypatch.setattr(signals, "_SAME_SIGNAL_S", 0.0)
        with pytest.raises(Ended):
            os.kill(os.getpid(), signal.SIGTERM)


def test_handlers_are_the_command_line_s_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def handlers() -> list[object]:
        return [signal.getsignal(number) for number in signals.HEEDED]

    before = handlers()
    seen: list[list[object]] = []
    train_toy(tmp_path / "run", ToyData(num_train=8), epochs=1)
    assert handlers() == before
    monkeypatch.setattr(ci2p_cache.verify, "find_splits", lambda cache: seen.append(handlers()) or [])
    assert call_ci2p("verify", ".", cwd=tmp_path).returncode == 0
    assert handlers() == before and seen[0] != before

    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert call_ci2p("verify", ".", cwd=tmp_path).returncode == 0
        assert seen[1][signals.HEEDED.index(signal.SIGHUP)] == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, ignored)

    def in_thread() -> None:
        with ending_by_signals():
            seen.append(handlers())

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert seen[-1] == before


@pytest.mark.parametrize("name", STATUS)
def test_other_commands_end_with_the_status_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(
        ci2p_cache.verify, "find_splits", lambda cache: os.kill(os.getpid(), signal.Signals[name]) or []
    )
    finished = call_ci2p("verify", ".", cwd=tmp_path)
    assert finished.returncode == STATUS[name]
    assert finished.stderr == f"Error: ended by {name}; run the same command again\n"


def _ended(command: list[str | Path], name: str, home: Path, is_due: Callable[[], bool], to_all: bool = False) -> str:
    """The one line of a command that is sent a signal once `is_due`."""
    process = Forked(command, cwd=home, start_new_session=True)
    while not is_due():
        assert process.poll() is None
        time.sleep(0.002)
    number = signal.Signals[name]
    os.killpg(process.pid, number) if to_all else process.send_signal(number)
    try:
        _, errors = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == STATUS[name] and "Traceback" not in errors, errors
    assert errors.count("Error:") == 1
    return errors.strip().splitlines()[-1]


AGAIN = "run the same command again to continue"


def test_train_ends_and_goes_on(zarr_cache: Path, tmp_path: Path) -> None:
    """In two processes; one by itself does `test_a_run_ends_after_its_step_and_goes_on_bit_for_bit`."""
    command = [*TRAIN, "--shards", zarr_cache, "--epochs", "4", "--out", "run", "--gpus", "2"]
    line = _ended(command, "SIGUSR1", tmp_path, (tmp_path / "run" / "metrics.jsonl").exists)
    assert line == f"Error: ended by SIGUSR1; {AGAIN}"
    assert (tmp_path / "run" / "last.ckpt").exists() and not list(tmp_path.rglob("*.tmp"))
    assert run_ci2p(*command, cwd=tmp_path).returncode == 0
    assert run_ci2p(*command, "--out", "whole", cwd=tmp_path).returncode == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_encode_ends_and_goes_on(tmp_path: Path, name: str) -> None:
    """A signal to the whole job, the decoding processes too."""
    write_image_folder(tmp_path / "images", train=40, val=1)
    small = ("--image-size", "32", "--shard-size", "8", "--batch-size", "4", "--device", "cpu", "--workers", "2")
    command = ["encode", "--dataset", "folder", "--data-dir", "images", "--out", "cache", *small]
    is_due = lambda: any(tmp_path.glob("cache/train/shards/*.json"))  # noqa: E731
    assert _ended(command, name, tmp_path, is_due, to_all=True) == f"Error: ended by {name}; {AGAIN}"
    assert not list(tmp_path.rglob("*.tmp")) and not (tmp_path / "cache" / "train" / "manifest.json").exists()
    assert run_ci2p(*command, cwd=tmp_path).returncode == 0
    assert run_ci2p(*command, "--out", "whole", cwd=tmp_path).returncode == 0
    assert files_of(tmp_path / "cache") == files_of(tmp_path / "whole")
