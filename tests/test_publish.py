"""publish: a name shows a whole file or none."""

import os
from pathlib import Path

import pytest

from ci2p_cache.publish import publish, remove_leftovers


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


def test_only_leftovers_of_the_same_name_are_removed(tmp_path: Path) -> None:
    for name in (".a.host.1.tmp", ".a.other.22.tmp", ".b.host.1.tmp", "a"):
        (tmp_path / name).write_bytes(b"")
    remove_leftovers(tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.host.1.tmp", "a"]
