"""Splits from folders: what is found, under which keys and labels, what is held out, and what is refused."""

import multiprocessing
import os
import pickle
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci2p_cache.errors import InputError
from ci2p_cache.packed_strings import PackedStrings
from ci2p_cache.printable import printable
from pipeline.encode.datasets import DATASETS, ImageSplit, open_dataset
from pipeline.encode.datasets.keys import item_keys
from pipeline.encode.datasets.sample import DrawnImages
from pipeline.encode.datasets.split import sorted_split


def fill(root: Path, names: Iterable[str]) -> str:
    """Files whose contents are their names; a folder cannot tell them from images."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return str(root)


def open_folder(
    data_dir: str, splits: tuple[str, ...] | None = None, val_fraction: float | None = None, seed: int = 0
) -> dict[str, ImageSplit]:
    return open_dataset("folder", data_dir, splits=splits, val_fraction=val_fraction, seed=seed)


def refusal(
    name: str, data_dir: str | None, splits: tuple[str, ...] | None = None, fraction: float | None = None
) -> str:
    with pytest.raises(InputError) as caught:
        open_dataset(name, data_dir, splits=splits, val_fraction=fraction, seed=0)
    message = str(caught.value)
    assert "\n" not in message
    return message


def read_in_another_process(split: ImageSplit) -> list[bytes]:
    return [split.read_bytes(i) for i in range(len(split.keys))]


# keys


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=9)))
def test_packed_strings_are_a_list_of_strings(strings: list[str]) -> None:
    packed = PackedStrings(strings)
    assert list(packed) == strings
    assert packed == strings
    assert [packed[i] for i in range(-len(strings), len(strings))] == strings * 2
    assert packed[1:] == strings[1:]
    assert pickle.loads(pickle.dumps(packed)) == strings
    assert packed != [*strings, "x"]
    with pytest.raises(IndexError):
        packed[len(strings)]


def test_keys_lose_the_extension_unless_two_would_be_one() -> None:
    names = ["a/x.jpg", "a/y.jpg", "a/y.PNG", "b/y.jpg", "a/z.jpg", "a/z.png", "a/z.jpg.gif", "a/v1.2.jpeg"]
    keys = ["a/x", "a/y.jpg", "a/y.PNG", "b/y", "a/z.jpg", "a/z.png", "a/z.jpg.gif", "a/v1.2"]
    assert item_keys(names) == keys


@settings(max_examples=300)
@given(st.sets(st.from_regex(r"[ab](\.(jpg|png|gif)){1,3}", fullmatch=True)))
def test_keys_are_unique(names: set[str]) -> None:
    keys = item_keys(sorted(names))
    assert len(set(keys)) == len(names)


def test_names_are_printable_in_one_line() -> None:
    assert printable("caf\udce9/Kätzchen 猫.jpg") == r"caf\xe9/Kätzchen 猫.jpg"
    assert printable("a\nb\t\x1b[31m\x7f\u2028\u202e\ud800") == r"a\nb\t\x1b[31m\x7f\u2028\u202e\ud800"


def test_two_items_or_classes_of_one_name_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"2 images have the name a/1\.jpg; rename or remove all but one"):
        item_keys(["a/1.jpg", "b/1.jpg", "a/1.jpg"])
    with pytest.raises(InputError, match=r"2 images have the name a/\\xe9\.jpg"):
        item_keys(["a/\udce9.jpg", r"a/\xe9.jpg"])
    source = DrawnImages(0, "train", 1)
    with pytest.raises(InputError, match=r"two images have the name x \(numbers 1 and 3 of 3\)"):
        sorted_split(("a", "b"), ["x", "y", "x"], [0, 0, 1], source)
    with pytest.raises(InputError, match="2 classes have the name a; rename"):
        sorted_split(("a", "a"), ["x", "y"], [0, 1], source)


# folder


def test_train_and_val_folders(tmp_path: Path) -> None:
    data_dir = fill(
        tmp_path,
        ["train/cat/2.jpg", "train/cat/1.JPEG", "train/ant/deep/er/9.webp", "train/ant/3.tiff", "val/cat/1.png"],
    )
    opened = open_folder(data_dir)
    assert list(opened) == ["train", "val"]
    train, val = opened["train"], opened["val"]
    assert train.classes == val.classes == ("ant", "cat")  # val has no ant and keeps its place
    assert train.keys == ["ant/3", "ant/deep/er/9", "cat/1", "cat/2"]
    assert train.labels.dtype == np.int64
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert [train.read_bytes(i) for i in range(4)] == [
        b"train/ant/3.tiff",
        b"train/ant/deep/er/9.webp",
        b"train/cat/1.JPEG",
        b"train/cat/2.jpg",
    ]
    assert (list(val.keys), val.labels.tolist()) == (["cat/1"], [1])
    only_val = open_folder(data_dir, ("val",))
    assert list(only_val) == ["val"]
    assert only_val["val"].classes == ("ant", "cat")


def test_test_stands_in_for_val_where_there_is_none(tmp_path: Path) -> None:
    data_dir = fill(tmp_path, ["train/a/1.jpg", "test/a/2.jpg"])
    assert open_folder(data_dir)["val"].keys == ["a/2"]
    fill(tmp_path, ["val/a/3.jpg"])
    assert open_folder(data_dir)["val"].keys == ["a/3"]


def test_held_out_by_class_seeded_and_disjoint(tmp_path: Path) -> None:
    names = [f"{name}/{i:03d}.jpg" for name, count in (("a", 100), ("b", 7), ("c", 1)) for i in range(count)]
    data_dir = fill(tmp_path, names)
    opened = open_folder(data_dir)
    train, val = opened["train"], opened["val"]
    assert np.bincount(val.labels, minlength=3).tolist() == [10, 1, 0]
    assert sorted([*train.keys, *val.keys]) == [name.removesuffix(".jpg") for name in names]
    assert list(val.keys) == sorted(val.keys)
    assert val.read_bytes(0) == f"{val.keys[0]}.jpg".encode()
    assert open_folder(data_dir, ("val",))["val"].keys == val.keys
    assert open_folder(data_dir, seed=1)["val"].keys != val.keys
    assert np.bincount(open_folder(data_dir, val_fraction=0.5)["val"].labels, minlength=3).tolist() == [50, 4, 0]
    assert set(open_folder(data_dir, val_fraction=0.5)["val"].keys) >= set(val.keys)


def test_the_choice_of_what_is_held_out_never_changes(tmp_path: Path) -> None:
    opened = open_folder(fill(tmp_path, [f"a/{i}.jpg" for i in range(20)]), val_fraction=0.2, seed=7)
    assert opened["val"].keys == ["a/17", "a/19", "a/2", "a/3"]


def test_held_out_of_train(tmp_path: Path) -> None:
    data_dir = fill(tmp_path, [f"train/a/{i}.jpg" for i in range(10)])
    opened = open_folder(data_dir, val_fraction=0.3)
    assert (len(opened["train"].keys), len(opened["val"].keys)) == (7, 3)
    assert len(open_folder(data_dir, ("train",))["train"].keys) == 10


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    opened = open_folder(fill(tmp_path, [f"{name}/{i}.jpg" for name in ("car", "plane", "train") for i in range(9)]))
    assert opened["train"].classes == ("car", "plane", "train")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    names = [b"a/1.jpg", b"a/\xff.jpg"]
    for name in names:
        try:
            Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(name)  # noqa: PTH118
        except OSError:
            pytest.skip("this file system takes UTF-8 alone")
    opened = open_folder(str(tmp_path), val_fraction=0.5)
    items = {split.keys[0]: split.read_bytes(0) for split in opened.values()}
    assert items == {"a/1": names[0], "a/\\xff": names[1]}


def test_folders_may_be_links_but_not_in_a_circle(tmp_path: Path) -> None:
    fill(tmp_path, ["elsewhere/1.jpg", "elsewhere/2.jpg"])
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").symlink_to(tmp_path / "elsewhere")
    opened = open_folder(str(tmp_path / "set"))
    assert len(opened["train"].keys) == 1
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere")
    assert "a/again is a link to a folder that it lies in" in refusal("folder", str(tmp_path / "set"))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_splits_travel_to_other_processes(tmp_path: Path, method: str) -> None:
    split = open_folder(fill(tmp_path, ["train/a/1.jpg", "train/b/2.jpg"]), ("train",))["train"]
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(read_in_another_process, (split,)) == [b"train/a/1.jpg", b"train/b/2.jpg"]


def test_a_file_that_went_away_is_an_os_error(tmp_path: Path) -> None:
    split = open_folder(fill(tmp_path, ["train/a/1.jpg"]), ("train",))["train"]
    (tmp_path / "train/a/1.jpg").unlink()
    with pytest.raises(OSError, match="No such file"):
        split.read_bytes(0)


def test_an_item_list_does_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "set", ["train/a/1.jpg"])
    monkeypatch.chdir(tmp_path)
    split = open_folder("set", ("train",))["train"]
    monkeypatch.chdir("/")
    assert split.read_bytes(0) == b"train/a/1.jpg"


@pytest.mark.parametrize(
    ("names", "splits", "fraction", "parts"),
    [
        ([], None, None, ["--data-dir", "no class folder", "expected DIR/train/CLASS/x.jpg"]),
        (["1.jpg"], None, None, ["images lie in it directly", "expected DIR/train/CLASS/x.jpg"]),
        (["a/1.txt", "b/1.jpg"], None, None, ["the class folder a/ holds no images", "expected"]),
        (["a/1.jpg"], None, None, ["--val-fraction 0.1", "no class has two images"]),
        (["a/1.jpg", "a/2.jpg"], None, 0.0, ["--val-fraction 0.0", "between 0 and 1"]),
        (["a/1.jpg", "a/2.jpg"], None, 1.5, ["--val-fraction 1.5", "between 0 and 1"]),
        (["train/a/1.jpg", "val/b/1.jpg"], None, None, ["val/ has the class b, which train/ has not"]),
        (["train/a/1.jpg", "val/a/1.jpg"], None, 0.1, ["--val-fraction 0.1", "holds the validation images"]),
        (["train/a/1.jpg", "test/a/1.jpg"], ("test", "val"), None, ["test/ stands in for val", "--split val"]),
        (["train/a/1.jpg"], None, None, ["no validation images (found train/)", "--val-fraction 0.1"]),
        (["val/a/1.jpg"], None, None, ["there is no train (found val/)"]),
        (["train/1.jpg", "val/a/1.jpg"], None, None, [": train/: images lie in it directly"]),
        (["train/1.jpg", "val/a/1.jpg"], ("val",), None, [": train/: images lie in it directly"]),
        (["train/a/1.jpg", "val/1.jpg"], None, None, [": val/: images lie in it directly"]),
    ],
)  # fmt: skip
def test_folders_that_are_refused(
    tmp_path: Path, names: list[str], splits: tuple[str, ...] | None, fraction: float | None, parts: list[str]
) -> None:
    message = refusal("folder", fill(tmp_path, names), splits, fraction)
    for part in [*parts, str(tmp_path) if "--data-dir" in message else "--val-fraction"]:
        assert part in message, message


@pytest.mark.parametrize("name", ["folder", "animals10", "imagenet"])
def test_what_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    assert f"--dataset {name} needs --data-dir" in refusal(name, None)
    assert f"--data-dir {tmp_path}/none: there is no such folder; expected" in refusal(name, f"{tmp_path}/none")
    fill(tmp_path, ["file"])
    assert f"--data-dir {tmp_path}/file: that is a file, not a folder" in refusal(name, f"{tmp_path}/file")


def test_names_of_data_sets_and_splits_are_checked() -> None:
    assert DATASETS == ("sample", "folder", "animals10", "imagenet", "webdataset", "huggingface", "parquet")
    assert "--dataset cifar: choose one of sample, folder" in refusal("cifar", None)
    assert "--split dev: choose one of train, val, test" in refusal("sample", None, ("dev",))
    assert "there is no test (found sample's train, sample's val)" in refusal("sample", None, ("test",))


# real images


@pytest.mark.real_data
def test_a_real_folder(real_data: Path) -> None:
    opened = open_folder(str(real_data / "imagenette"))
    assert {name: len(split.keys) for name, split in opened.items()} == {"train": 9469, "val": 3925}
    assert len(opened["train"].classes) == 10
    for split in opened.values():
        assert list(split.keys) == sorted(set(split.keys))
        assert split.read_bytes(len(split.keys) - 1)[:2] == b"\xff\xd8"
