"""`--data-dir`: whatever is given, a folder or one line that says what it is instead."""

from pathlib import Path

import pytest

from ci2p_cache.errors import InputError
from pipeline.encode.datasets.data_dir import data_folder
from pipeline.encode.default_cache import default_cache


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "--data-dir '': that is no name; give a folder; expected"),
        ("  ", "--data-dir '  ': that is no name"),
        ("~nosuchuser/x", "--data-dir ~nosuchuser/x: there is no such user; give the whole path"),
        ("a\0b", r"--data-dir a\x00b: no path holds the character \x00"),
        ("a\nb", r"--data-dir a\nb: there is no such folder"),
        ("caf\udce9", r"--data-dir caf\xe9: there is no such folder"),
        ("x" * 300, "xxx: the name is too long"),
        ("x/" * 3000, "x/: the name is too long"),
        ("around", "--data-dir around: links lead around in a circle"),
        ("gone", "--data-dir gone: there is no such folder"),
        ("set.zip", "--data-dir set.zip: that is a file, not a folder; unpack it, and give the folder"),
        ("file", "--data-dir file: that is a file, not a folder; expected"),
        ("file/below", "--data-dir file/below: a part of the path is a file"),
    ],
)
def test_what_is_no_folder_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, message: str
) -> None:
    (tmp_path / "around").symlink_to("around")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "file").touch()
    (tmp_path / "set.zip").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        data_folder(given, "folder", "expected DIR")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_permission_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(InputError, match="--data-dir x: no permission to look there"):
        data_folder("x", "folder", "expected DIR")


def test_a_folder_is_absolute_and_links_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    assert data_folder("link", "folder", "") == tmp_path / "link"


@pytest.mark.parametrize(
    ("dataset", "data_dir", "name"),
    [
        ("sample", None, "sample"),
        ("animals10", "somewhere/raw-img", "animals10"),
        ("folder", "pictures/cats and dogs/", "cats-and-dogs"),
        ("folder", "/", "folder"),
        ("folder", "..", Path.cwd().parent.name),
        ("webdataset", "s3://bucket/shards-{000..099}.tar", "shards--000..099-.tar"),
        ("webdataset", "https://host/set", "set"),
        ("huggingface", "owner/beans", "beans"),
    ],
)
def test_a_cache_is_named_after_its_data(dataset: str, data_dir: str | None, name: str) -> None:
    assert default_cache(dataset, data_dir) == Path("caches") / name
