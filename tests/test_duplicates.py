"""What the maker of a data set is told: images that are there twice, under two labels, in train too; files left out."""

import json
import shutil
from pathlib import Path

import pytest

from ci2p_cache.cache import open_cache
from ci2p_cache.errors import InputError
from ci2p_cache.manifest import Manifest
from tests.conftest import call_ci2p, encode_folder, files_of, write_image_folder

ENCODE = [
    "encode",
    "--dataset",
    "folder",
    "--data-dir",
    "images",
    "--out",
    "cache",
    "--image-size",
    "32",
    "--workers",
    "0",
]


def manifest_of(cache: Path, split: str) -> Manifest:
    return open_cache(cache, split).manifest


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Of val one image is in train, too; of train one is there three times, of these once under another label."""
    images = write_image_folder(tmp_path / "images", train=4, val=3)
    shutil.copy(images / "train" / "red" / "000.png", images / "val" / "red" / "leak.png")
    shutil.copy(images / "train" / "blue" / "000.png", images / "train" / "blue" / "again.png")
    shutil.copy(images / "train" / "blue" / "000.png", images / "train" / "green" / "odd.png")
    return images


def test_they_are_counted_and_named(images: Path, tmp_path: Path) -> None:
    said = call_ci2p(*ENCODE, cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    for line in (
        "images of val that are also in train, byte for byte: 1 (red/leak)",
        "images of train that are there again under another key: 2 (",
        "images of train that are there under two labels: 1 (",
    ):
        assert line in said.stdout
        assert line in call_ci2p("inspect", "cache", cwd=tmp_path).stdout
    train, val = manifest_of(tmp_path / "cache", "train").duplicates, manifest_of(tmp_path / "cache", "val").duplicates
    assert (train.again, train.two_labels, train.also_in) == (2, 1, {})
    assert (val.again, val.two_labels, val.also_in) == (0, 0, {"train": 1})
    assert val.also_in_keys == {"train": ("red/leak",)}


def test_it_does_not_matter_which_split_is_finished_first(images: Path, tmp_path: Path) -> None:
    whole = encode_folder(images, tmp_path / "whole")
    parts = encode_folder(images, tmp_path / "parts", splits=["val"])
    assert manifest_of(parts, "val").duplicates.also_in == {}
    encode_folder(images, parts, splits=["train"])
    assert files_of(parts) == files_of(whole)


def test_a_failed_image_is_nobodys_copy(tmp_path: Path) -> None:
    images = write_image_folder(tmp_path / "images", train=2, val=2)
    for split in ("train", "val"):
        for number in range(2):
            (images / split / "red" / f"empty{number}.png").write_bytes(b"")
    cache = encode_folder(images, tmp_path / "cache", on_error="skip")
    assert manifest_of(cache, "val").duplicates == manifest_of(cache, "train").duplicates
    assert manifest_of(cache, "val").duplicates.again == 0


def test_no_file_is_left_out_without_a_word(tmp_path: Path) -> None:
    images = write_image_folder(tmp_path / "images", train=2, val=2)
    (images / "README.txt").write_text("about")
    (images / "train" / "red" / "notes.md").write_text("about red")
    (images / "train" / "red" / ".DS_Store").write_text("")
    cache = encode_folder(images, tmp_path / "cache")
    left_out = {entry.what: entry for entry in manifest_of(cache, "train").left_out}
    assert sum(entry.count for entry in left_out.values()) == 3
    assert {name for entry in left_out.values() for name in entry.names} == {
        "README.txt", "train/red/notes.md", "train/red/.DS_Store",
    }  # fmt: skip
    shown = call_ci2p("inspect", "cache", "--json", "-", cwd=tmp_path)
    assert "left out: " in shown.stderr and "README.txt" in shown.stderr
    assert len(json.loads(shown.stdout)["train"]["left_out"]) == len(left_out)


def test_a_picture_is_left_out_only_if_asked_for(tmp_path: Path) -> None:
    images = write_image_folder(tmp_path / "images", train=2, val=2)
    shutil.copy(images / "train" / "red" / "000.png", images / "train" / "loose.png")
    with pytest.raises(InputError, match=r"loose\.png\) would be left out; .*--on-error skip"):
        encode_folder(images, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    cache = encode_folder(images, tmp_path / "cache", on_error="skip")
    (entry,) = [entry for entry in manifest_of(cache, "train").left_out if entry.pictures]
    assert entry.count == 1 and entry.names == ("train/loose.png",)
