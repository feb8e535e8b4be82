"""publish: a name shows a whole file or none."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ci2p_cache.process import this_process
from ci2p_cache.publish import publish, remove_leftovers, sweep, write_output


def test_a_failed_write_leaves_the_old_file_and_nothing_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "folder" / "file"
    publish(target, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        publish(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(target.parent.iterdir()) == [target]


def test_the_bytes_are_synced_before_the_name_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    synced = os.fsync

    def watch(descriptor: int) -> None:
        seen.append((tmp_path / "file").exists())
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    publish(tmp_path / "file", b"data")
    assert seen == [False, True]  # the file aside, then the folder


def _run(code: str, *arguments: object, kill: bool = False) -> str:
    """What a process of its own printed; with `kill` it is killed once it has printed a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = process.stdout.readline().strip()
    if kill:
        process.kill()
    process.communicate()
    return said


_HANGS = """
import os, sys, time
from pathlib import Path
from ci2p_cache.publish import publish

def hang(descriptor):
    print("writing", flush=True)
    time.sleep(600)

os.fsync = hang
publish(Path(sys.argv[1]), b"data")
"""


def test_what_a_killed_process_left_is_swept_and_a_living_one_s_is_not(tmp_path: Path) -> None:
    _run(_HANGS, tmp_path / "a.json", kill=True)
    living = subprocess.Popen([sys.executable, "-c", _HANGS, str(tmp_path / "a.json")], stdout=subprocess.PIPE)
    assert living.stdout is not None
    try:
        living.stdout.readline()
        assert len(list(tmp_path.iterdir())) == 2
        sweep(tmp_path)
        (left,) = tmp_path.iterdir()
        assert f".{living.pid}." in left.name
        remove_leftovers(tmp_path / "a.json")
        assert list(tmp_path.iterdir()) == [left]
    finally:
        living.kill()
        living.wait()
        living.stdout.close()
    sweep(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_number_that_another_process_has_now_is_no_owner(tmp_path: Path) -> None:
    ours = this_process()
    (tmp_path / f".a.{replace(ours, start='1')}.tmp").write_bytes(b"")
    (tmp_path / f".b.{ours}.tmp").write_bytes(b"")
    sweep(tmp_path)
    assert [path.name[:3] for path in tmp_path.iterdir()] == [".b."]


def test_another_machine_s_files_and_those_of_older_versions_go_once_nobody_writes_to_them(tmp_path: Path) -> None:
    names = [f".a.{replace(this_process(), host='other.host')}.tmp", ".a.other.host.22.tmp"]
    strangers = [".cache.tmp", "a.host.22.tmp", ".mine.tmp"]
    for name in (*names, *strangers):
        (tmp_path / name).write_bytes(b"")
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*names, *strangers}
    for name in (*names, *strangers):
        os.utime(tmp_path / name, (1, 1))
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(strangers)


def test_only_leftovers_of_the_same_name_are_removed(tmp_path: Path) -> None:
    gone = replace(this_process(), start="1")
    for name in (f".a.{gone}.tmp", f".b.{gone}.tmp", "a"):
        (tmp_path / name).write_bytes(b"")
    remove_leftovers(tmp_path / "a")
    assert sorted(path.name[:2] for path in tmp_path.iterdir()) == [".b", "a"]


def test_the_longest_name_can_be_published(tmp_path: Path) -> None:
    publish(tmp_path / ("x" * 255), b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["x" * 255]


def test_what_is_no_regular_file_is_written_through(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_bytes)
        write_output(pipe, b"through")
        assert read.result(10) == b"through"
    assert pipe.is_fifo()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_output(tmp_path / "link", b"data")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == b"data"
    null = tmp_path / "null"
    null.symlink_to("/dev/null")
    write_output(null, b"data")
    assert null.is_symlink() and null.is_char_device()
    with pytest.raises(OSError, match="No space left") as caught:
        write_output(Path("/dev/full"), b"data")
    assert caught.value.filename == "/dev/full" and Path("/dev/full").is_char_device()
