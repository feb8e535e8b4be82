"""A run folder holds one run (T5): never two at once, never the files of two; its holder is told from the dead."""

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import nn

from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.process import Process, this_process
from pipeline.running import lock as locks
from pipeline.running.lock import Lock
from pipeline.train.loop import train
from pipeline.train.one_run import LOCK
from pipeline.train.run_folder import newest_run
from tests.conftest import call_ci2p
from tests.equal_runs import assert_same_run
from tests.forked import Forked
from tests.toy_training import Killed, ToyData, build_small, toy_recipe, train_toy

HERE = this_process()
GONE = Process(HERE.host, HERE.pid, "1", HERE.kernel)  # the pid is another process's now
ELSEWHERE = Process("node7", 4321, "99", "0123abcd")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a finished run."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    train_toy(run)
    return contents(run)


@pytest.fixture
def run(whole: dict[str, bytes], tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    for name, data in whole.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def quick_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats of 50 ms, and a second of silence for the dead."""
    for name, seconds in (("_BEAT_S", 0.05), ("_SILENT_S", 1.0), ("_LOOK_S", 0.02)):
        monkeypatch.setattr(locks, name, seconds)


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir() if not path.name.startswith("events.")}


def take(folder: Path) -> Lock:
    return Lock(folder / LOCK, work="the work", way_out="wait")


def leave(folder: Path, owner: Process | str, age_s: float = 0.0) -> Path:
    """A lock as its owner left it."""
    path = folder / LOCK
    path.write_text(f"{owner} 2026-01-01 00:00:00 UTC\n")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_a_living_one_s_lock_is_refused_by_name_and_let_go_of(tmp_path: Path) -> None:
    with take(tmp_path) as lock:
        lock.check()
        with pytest.raises(
            InputError, match=rf"^the work is being done by process {os.getpid()} on \S+ since [-\d]+ [:\d]+ UTC; wait$"
        ):
            take(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    assert not list(tmp_path.iterdir())


def test_the_lock_of_one_that_is_gone_is_taken(tmp_path: Path) -> None:
    leave(tmp_path, GONE)
    with take(tmp_path):
        assert str(HERE) in (tmp_path / LOCK).read_text()


@pytest.mark.parametrize("owner", [ELSEWHERE, "half a li"])
def test_of_another_machine_the_silence_tells(tmp_path: Path, quick_clock: None, owner: Process | str) -> None:
    leave(tmp_path, owner, age_s=3600)
    began = time.monotonic()
    with take(tmp_path):
        assert time.monotonic() - began < 0.5  # silent for an hour already
    leave(tmp_path, owner)
    began = time.monotonic()
    with take(tmp_path):
        assert time.monotonic() - began > 0.8
    leave(tmp_path, owner, age_s=-3600)  # its clock is ahead
    with take(tmp_path):
        pass


def test_another_machine_s_that_beats_is_refused(tmp_path: Path, quick_clock: None) -> None:
    path, ended = leave(tmp_path, ELSEWHERE), threading.Event()

    def beat() -> None:
        while not ended.wait(0.05):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(InputError, match="process 4321 on node7 since 2026-01-01"):
            take(tmp_path)
    finally:
        ended.set()
        thread.join()
    assert "node7" in path.read_text()


def test_an_owner_beats(tmp_path: Path, quick_clock: None) -> None:
    with take(tmp_path):
        os.utime(tmp_path / LOCK, (1, 1))
        deadline = time.monotonic() + 10
        while (tmp_path / LOCK).stat().st_mtime == 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_who_was_taken_for_dead_finds_out(tmp_path: Path) -> None:
    with take(tmp_path) as lock:
        (tmp_path / LOCK).unlink()
        lock.check()  # nobody has it: it is taken again
        leave(tmp_path, ELSEWHERE)
        with pytest.raises(WorkError, match="the work was taken over by process 4321 on node7"):
            lock.check()
    assert "node7" in (tmp_path / LOCK).read_text()  # and is the other's to let go of


def test_of_many_at_once_one_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the lock of a dead one there, and on a disk without links too."""

    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    for attempt in range(20):
        if attempt == 10:
            monkeypatch.setattr(os, "link", no_links)
        leave(tmp_path, GONE)
        if attempt % 10 == 9:  # one that died while it cleared that away
            (tmp_path / f".{LOCK}.guard").write_text(f"{GONE} \n")
        start, got = threading.Barrier(6), list[Lock]()

        def try_it(start: threading.Barrier = start, got: list[Lock] = got) -> None:
            start.wait()
            with contextlib.suppress(InputError):
                got.append(take(tmp_path))

        threads = [threading.Thread(target=try_it) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1
        got[0].__exit__(None, None, None)
        assert not list(tmp_path.iterdir())


def test_t5_a_second_training_is_refused(tmp_path: Path) -> None:
    refused = []

    def second(_: object) -> None:
        with pytest.raises(InputError, match=r"run: a training is being done by process \d+ .*give another --out"):
            train_toy(tmp_path / "run", lr=1e-3)
        refused.append(True)

    train(toy_recipe(epochs=1), ToyData(), tmp_path / "run", device="cpu", build=build_small, callbacks=[second])
    assert refused and not (tmp_path / "run" / LOCK).exists()


def test_t5_two_commands_at_once_leave_the_files_of_one(zarr_cache: Path, tmp_path: Path) -> None:
    """Without --out, from two terminals; the first is killed then, and the same command goes on."""
    words = ["train", "--shards", str(zarr_cache), "--model", "ci2p_vit_tiny", "--device", "cpu", "--batch-size", "4"]
    words += ["--epochs", "200", "--set", "checkpoint_every_steps=5"]  # an epoch
    first = Forked(words, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("runs/*/last.ckpt")):
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        for words_too in ([*words, "--lr", "5e-4"], words):
            second = call_ci2p(*words_too, cwd=tmp_path)
            assert second.returncode == 2
            assert f"a training is being done by process {first.pid} on " in second.stderr.splitlines()[-1]
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    again = call_ci2p(*words, "--max-minutes", "0.00001", cwd=tmp_path)
    assert again.returncode == 0 and "another --out or --seed begins another run" in again.stderr
    (run,) = (tmp_path / "runs").iterdir()
    epochs = [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, len(epochs) + 1))


def _without(*names: str) -> Callable[[Path], None]:
    return lambda run: [(run / name).unlink() for name in names] and None


def _with_weights_alone(run: Path) -> None:
    for path in run.iterdir():
        if path.suffix != ".safetensors":
            path.unlink()


def _with_another_program_s_config(run: Path) -> None:
    for path in run.iterdir():
        path.unlink()
    (run / "config.json").write_text('{"architectures": ["ViT"]}')


@pytest.mark.parametrize("lr", [2e-3, 5e-4])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("last.ckpt", "previous.ckpt"), "holds metrics.jsonl and no last.ckpt .*; give another --out, or mov"),
        (_with_weights_alone, "holds best.safetensors and no last.ckpt .*; give another --out, or mov"),
        (_with_another_program_s_config, "config.json is not of this version of ci2p"),
    ],
)
def test_t5_what_cannot_be_gone_on_with_is_not_written_over(
    run: Path, change: Callable[[Path], None], message: str, lr: float
) -> None:
    """Neither by another command nor by the same."""
    change(run)
    before = contents(run)
    with pytest.raises(InputError, match=message):
        train_toy(run, lr=lr)
    assert contents(run) == before


def test_t5_killed_before_its_first_checkpoint_it_begins_anew_and_no_other_does(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metrics and weights of an epoch are written before the checkpoint that knows of them, the weights aside."""

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("pipeline.train.checkpoint_writer.save_checkpoint", killed)
        train_toy(tmp_path / "killed")
    there = set(contents(tmp_path / "killed"))
    assert {"metrics.jsonl", "best.next"} < there and "best.safetensors" not in there
    with pytest.raises(InputError, match=r"lr is 0\.002 there and 0\.0005 in this command"):
        train_toy(tmp_path / "killed", lr=5e-4)
    train_toy(tmp_path / "killed")
    assert_same_run(tmp_path / "killed", run)


def test_an_out_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"--out \S+/file is a file; give the name of a folder"):
        train_toy(tmp_path / "file")
    with pytest.raises(WorkError, match=r"file/run cannot be written to \(Not a directory\)"):
        train_toy(tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "x"


def test_the_same_command_again_says_which_run_it_found(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ci2p"):
        assert train_toy(run).finished
    assert f"{run} is finished" in caplog.text and "another --out or --seed begins another run" in caplog.text


def test_a_refusal_leaves_no_folder_behind(tmp_path: Path) -> None:
    def build(*_: object, **__: object) -> nn.Module:
        raise InputError("there is no such model")

    with pytest.raises(InputError, match="no such model"):
        train(toy_recipe(), ToyData(), tmp_path / "run", device="cpu", build=build)
    assert not (tmp_path / "run").exists()


def test_the_newest_run_is_found_while_it_is_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Path.iterdir

    def and_one_that_goes(self: Path) -> Iterator[Path]:
        yield from listed(self)
        yield self / ".last.ckpt.tmp"

    monkeypatch.setattr(Path, "iterdir", and_one_that_goes)
    assert newest_run(tmp_path) == run
