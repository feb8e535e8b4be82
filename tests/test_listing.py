"""What lies in a folder and is no image: counted by what it is, never read, never silently passed over."""

import os
import socket
from pathlib import Path

import pytest

from ci2p_cache.errors import InputError
from ci2p_cache.left_out import LeftOutFiles
from pipeline.encode.datasets.listing import (
    DANGLING,
    HIDDEN,
    LINKED_FOLDERS,
    LITTER,
    NO_IMAGES,
    OWN_OUTPUT,
    SPECIAL,
    UNREAD,
    image_files,
    leave_out_folder,
    list_folder,
)
from tests.test_datasets import fill


def counted(left_out: LeftOutFiles) -> dict[tuple[str, bool], tuple[str, ...]]:
    """(what, looks like an image) -> names."""
    assert all(entry.count == len(entry.names) for entry in left_out.listed())
    return {(entry.what, entry.pictures): entry.names for entry in left_out.listed()}


def test_every_file_is_an_image_or_counted(tmp_path: Path) -> None:
    fill(tmp_path, ["a.jpg", "b.JFIF", "c.txt", "noext", "d.heic", "e.SVG", "f.cr2", ".g.jpg", ".h/x.jpg", "Thumbs.db"])
    fill(
        tmp_path,
        ["__MACOSX/._a.jpg", "sub/x.jpg", "@eaDir/a.jpg", "desktop.ini", ".ipynb_checkpoints/a.jpg", "1.jpg.bak"],
    )
    left_out = LeftOutFiles()
    contents = list_folder(tmp_path, "val/", left_out)
    assert (contents.images, contents.folders) == (("a.jpg", "b.JFIF"), ("sub",))
    assert counted(left_out) == {
        (NO_IMAGES, False): ("val/1.jpg.bak", "val/c.txt", "val/noext"),
        (UNREAD, True): ("val/d.heic", "val/e.SVG", "val/f.cr2"),
        (HIDDEN, False): ("val/.g.jpg", "val/.h/", "val/.ipynb_checkpoints/"),
        (LITTER, False): ("val/@eaDir/", "val/Thumbs.db", "val/__MACOSX/", "val/desktop.ini"),
    }


def test_what_is_no_regular_file_is_never_an_image(tmp_path: Path) -> None:
    fill(tmp_path, ["real.jpg", "folder/x.jpg"])
    os.mkfifo(tmp_path / "fifo.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "link.jpg").symlink_to("real.jpg")
    (tmp_path / "other").symlink_to("folder")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(tmp_path)  # a socket's path may not be long
        server.bind("socket.jpg")
        os.chdir(here)
        left_out = LeftOutFiles()
        contents = list_folder(tmp_path, "", left_out)
    assert contents.images == ("link.jpg", "real.jpg")
    assert (contents.folders, contents.links) == (("folder", "other"), {"other"})
    assert counted(left_out) == {
        (SPECIAL, True): ("fifo.png", "socket.jpg", "zero.png"),
        (SPECIAL, False): ("pipe",),
        (DANGLING, True): ("gone.png",),
        (DANGLING, False): ("self",),
    }


@pytest.mark.parametrize(
    ("links", "named"),
    [
        ({"a/up": ".."}, "a/up"),
        ({"a/here": "."}, "a/here"),
        ({"a/b": "../b", "b/a": "../a"}, "a/b/a"),
        ({"a/b": "../b", "b/c": "../c", "c/a": "../a/deep"}, None),  # roundabout, and it ends
        ({"a/b": "../b", "b/c": "../c", "c/a": "../a"}, "a/b/c/a"),
        ({"top": "."}, "top"),
    ],
)
def test_links_that_lead_in_a_circle_are_refused(tmp_path: Path, links: dict[str, str], named: str | None) -> None:
    fill(tmp_path, ["a/1.jpg", "a/deep/2.jpg", "b/3.jpg", "c/4.jpg"])
    for link, target in links.items():
        (tmp_path / link).symlink_to(target)
    folder = "top" if "top" in links else "a"
    if named is None:
        assert "a/b/c/a/2.jpg" in image_files(tmp_path, folder, LeftOutFiles())
        return
    with pytest.raises(InputError, match=f": {named} is a link to a folder that it lies in; remove the link"):
        image_files(tmp_path, folder, LeftOutFiles())


def test_a_folder_that_is_left_out_is_counted_file_by_file(tmp_path: Path) -> None:
    fill(tmp_path, ["extra/1.jpg", "extra/deep/2.jpg", "extra/deep/notes.txt", "extra/.git/x", "elsewhere/3.jpg"])
    (tmp_path / "extra/circle").symlink_to(".")
    (tmp_path / "link").symlink_to("elsewhere")
    left_out = LeftOutFiles()
    assert leave_out_folder(tmp_path, "extra", "images over there", left_out) == 2
    assert leave_out_folder(tmp_path, "link", "images over there", left_out) == 0
    assert counted(left_out) == {
        ("images over there", True): ("extra/1.jpg", "extra/deep/2.jpg"),
        (NO_IMAGES, False): ("extra/deep/notes.txt",),
        (HIDDEN, False): ("extra/.git/",),
        (LINKED_FOLDERS, False): ("extra/circle/", "link/"),
    }


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=f"cannot list {tmp_path}: Permission denied"):
        list_folder(tmp_path, "", LeftOutFiles())


SPEC = '{"format_version": 1, "items_sha256": "0", "weights_sha256": "0"}'
CONFIG = '{"format_version": 1, "recipe": {}, "data": {"fingerprint": "0"}}'


@pytest.mark.parametrize(
    ("files", "is_own"),
    [
        ({"x/train/spec.json": SPEC}, True),  # a cache that has just been begun
        ({"x/train/items/classes.json": "[]", "x/train/items/keys.npy": ""}, True),  # a moment earlier
        ({"x/train/spec.json": SPEC, "x/train/shards/000000.json": "{}", "x/val/spec.json": SPEC}, True),
        ({"x/spec.json": SPEC, "x/latents.zarr/c/0/0.png": ""}, True),
        ({"x/config.json": CONFIG, "x/confusion.png": ""}, True),
        ({"x/some/train/spec.json": SPEC, "x/other/val/spec.json": SPEC, "x/notes.txt": ""}, True),
        ({"x/caches/some/train/spec.json": SPEC, "x/runs/one/config.json": CONFIG}, True),
        ({"x/some/train/spec.json": SPEC, "x/1.jpg": ""}, False),
        ({"x/some/train/spec.json": SPEC, "x/cats/1.jpg": ""}, False),
        ({"x/spec.json": "{}", "x/1.jpg": ""}, False),  # another program's
        ({"x/config.json": '{"recipe": "soup"}'}, False),
        ({"x/.hidden": ""}, False),
    ],
)
def test_caches_and_runs_are_known_by_what_is_in_them(tmp_path: Path, files: dict[str, str], is_own: bool) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    left_out = LeftOutFiles()
    assert list_folder(tmp_path, "", left_out).folders == (() if is_own else ("x",))
    assert counted(left_out) == ({(OWN_OUTPUT, False): ("x/",)} if is_own else {})
