"""Data sets of the `datasets` library, made on disk; no network."""

import hashlib
import os
import pickle
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ci2p_cache.errors import InputError
from pipeline.encode.datasets import ImageDataset, ImageSplit, open_dataset
from pipeline.encode.datasets.table_images import relative_name


def png(level: int) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def blake(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def open_huggingface(
    data_dir: str | None, splits: tuple[str, ...] | None = None, val_fraction: float | None = None
) -> ImageDataset:
    return open_dataset("huggingface", data_dir, splits=splits, val_fraction=val_fraction, seed=0)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return pytest.importorskip("datasets", exc_type=ImportError)


def make_table(library: Any, labels: list[int]) -> Any:
    features = library.Features(
        {"note": library.Value("string"), "photo": library.Image(), "label": library.ClassLabel(names=["ant", "bee"])}
    )
    rows = {
        "note": ["" for _ in labels],
        "photo": [{"bytes": png(10 * i), "path": None} for i in range(len(labels))],
        "label": labels,
    }
    return library.Dataset.from_dict(rows, features=features)


def test_saved_splits(library: Any, tmp_path: Path) -> None:
    splits = {"train": make_table(library, [1, 0, 1]), "validation": make_table(library, [0, 1])}
    library.DatasetDict({**splits, "test": make_table(library, [-1])}).save_to_disk(str(tmp_path / "saved"))
    opened = open_huggingface(str(tmp_path / "saved"))
    train, val = opened["train"], opened["val"]
    assert train.classes == val.classes == ("ant", "bee")
    assert train.keys == sorted(blake(png(level)) for level in (0, 10, 20))
    again = pickle.loads(pickle.dumps(train))
    found = {again.read_bytes(i): (key, int(train.labels[i])) for i, key in enumerate(train.keys)}
    assert found == {png(level): (blake(png(level)), label) for level, label in ((0, 1), (10, 0), (20, 1))}
    assert sorted(val.labels.tolist()) == [0, 1]
    assert [str(each) for each in opened.left_out] == ["rows of test without labels (1: row 0)"]
    with pytest.raises(InputError, match=r"--val-fraction 0\.1: validation holds the validation images"):
        open_huggingface(str(tmp_path / "saved"), val_fraction=0.1)


def test_a_single_table_is_held_out_from(library: Any, tmp_path: Path) -> None:
    make_table(library, [0, 1] * 20).select(range(39, -1, -1)).save_to_disk(str(tmp_path / "one"))
    opened = open_huggingface(str(tmp_path / "one"))
    assert (len(opened["train"].keys), np.bincount(opened["val"].labels).tolist()) == (36, [2, 2])
    assert opened["val"].keys[0] == blake(opened["val"].read_bytes(0))


def test_a_folder_of_images(library: Any, tmp_path: Path) -> None:
    for name in ("train/ant/1", "train/bee/2", "test/bee/3"):
        path = tmp_path / "set" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(int(name[-1])))
    opened = open_huggingface(str(tmp_path / "set"))
    assert opened["train"].classes == ("ant", "bee")
    assert {opened["train"].read_bytes(i) for i in range(2)} == {png(1), png(2)}
    assert (opened["val"].labels.tolist(), opened["val"].read_bytes(0)) == ([1], png(3))


def test_tables_that_are_refused(library: Any, tmp_path: Path) -> None:
    table = make_table(library, [0, 1])
    for name, broken, message in (
        ("no-image", table.remove_columns("photo"), "no image column among note, label"),
        ("no-label", table.remove_columns("label"), "no ClassLabel column among note, photo"),
        ("hidden", make_table(library, [0, -1]), "some images have no label"),
    ):
        broken.save_to_disk(str(tmp_path / name))
        with pytest.raises(InputError) as caught:
            open_huggingface(str(tmp_path / name))
        assert f"--data-dir {tmp_path / name}: " in str(caught.value)
        assert message in str(caught.value)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"--data-dir .*/nothing: cannot be loaded"):
        open_huggingface(str(tmp_path / "nothing"))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        InputError, match=r"--dataset huggingface: the package datasets is not installed; pip install 'datasets>=3'"
    ):
        open_huggingface("frgfm/imagenette")
    with pytest.raises(InputError, match="--dataset huggingface needs --data-dir"):
        open_huggingface(None)


def save(
    library: Any, folder: Path, labels: dict[str, list[Any]], *, feature: Any = None, paths: list[str] | None = None
) -> str:
    """Splits with these labels; image number i of each is png(i), or of the path `paths[i]`."""
    features = library.Features(
        {"image": library.Image(), "label": feature or library.ClassLabel(names=["ant", "bee"])}
    )
    tables = library.DatasetDict()
    for split, values in labels.items():
        images = [{"bytes": png(i), "path": paths[i] if paths else None} for i in range(len(values))]
        tables[split] = library.Dataset.from_dict({"image": images, "label": values}, features=features)
    tables.save_to_disk(str(folder))
    return str(folder)


def items(split: ImageSplit) -> dict[str, tuple[int, bytes]]:
    return {key: (int(split.labels[i]), split.read_bytes(i)) for i, key in enumerate(split.keys)}


def fill(root: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(10 * i) if name.endswith("g") else b"text")
    return root


def test_a_row_more_or_less_moves_no_key(library: Any, tmp_path: Path) -> None:
    one = make_table(library, [0, 1, 0, 1])
    one.save_to_disk(str(tmp_path / "one"))
    one.select([3, 0, 1]).save_to_disk(str(tmp_path / "other"))
    before, after = (
        items(open_huggingface(str(tmp_path / name), val_fraction=0.4)["train"]) for name in ("one", "other")
    )
    assert all(blake(data) == key for key, (_, data) in (before | after).items())

    fill(tmp_path / "set", *(f"train/{c}/{i}.png" for c in ("ant", "bee") for i in (1, 2)), "test/ant/1.png")
    before = items(open_huggingface(str(tmp_path / "set"))["train"])
    assert list(before) == ["train/ant/1", "train/ant/2", "train/bee/1", "train/bee/2"]
    (tmp_path / "set/train/ant/1.png").rename(tmp_path / "set/train/ant/9.png")
    (tmp_path / "set/train/ant/0.png").write_bytes(png(99))
    after = items(open_huggingface(str(tmp_path / "set"))["train"])
    assert after == {
        **{key: item for key, item in before.items() if key != "train/ant/1"},
        "train/ant/9": before["train/ant/1"],
        "train/ant/0": (0, png(99)),
    }


def test_keys_are_file_names_where_these_are_unique(library: Any, tmp_path: Path) -> None:
    for paths, keys in (
        (["x/1.jpg", "x/2.jpg"], ["1", "2"]),  # save_to_disk keeps the last name
        (["1.jpg", "1.png"], ["1.jpg", "1.png"]),
        (["a\n.jpg", "b.jpg"], ["a\\n", "b"]),
        (["x/1.jpg", "y/1.jpg"], sorted([blake(png(0)), blake(png(1))])),
    ):
        split = open_huggingface(
            save(library, tmp_path / blake(str(paths).encode()), {"train": [0, 1], "test": [0, 1]}, paths=paths)
        )["train"]
        assert split.keys == keys
        assert split.stamp(0).num_bytes == len(split.read_bytes(0))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("train/1.jpg", "train/1.jpg"),
        ("./train/1.jpg", "train/1.jpg"),
        ("/data/set/train/1.jpg", "train/1.jpg"),
        ("/data/settled/1.jpg", "1.jpg"),
        ("../1.jpg", "1.jpg"),
        ("zip://train/1.jpg::/home/x/a.zip", "train/1.jpg"),
        ("hf://datasets/x/y@abc/train/1.jpg", "1.jpg"),
    ],
)
def test_names_that_are_the_same_on_every_machine(path: str, name: str) -> None:
    assert relative_name(path, Path("/data/set")) == name


def test_the_same_image_three_times(library: Any, tmp_path: Path) -> None:
    table = library.Dataset.from_dict(
        {"image": [{"bytes": png(1), "path": None}] * 3, "label": [1, 0, 1]},
        features=library.Features({"image": library.Image(), "label": library.ClassLabel(names=["ant", "bee"])}),
    )
    library.DatasetDict({"train": table, "test": table}).save_to_disk(str(tmp_path / "set"))
    key = blake(png(1))
    split = open_huggingface(str(tmp_path / "set"))["train"]
    assert dict(zip(split.keys, split.labels.tolist(), strict=True)) == {key: 0, f"{key}-1": 1, f"{key}-2": 1}


@pytest.mark.parametrize(
    "splits", [("train", "validation", "test"), ("training", "dev", "test"), ("train", "val", "test")]
)
def test_splits_by_their_usual_names(library: Any, tmp_path: Path, splits: tuple[str, ...]) -> None:
    labels = {split: [0, 1][: i + 1] for i, split in enumerate(splits)}
    opened = open_huggingface(save(library, tmp_path / "set", {**labels, "extra": [0, 0, 0]}))
    assert list(opened) == ["train", "val", "test"]
    assert [str(each) for each in opened.left_out] == [
        "rows of the split extra, which is not for training or validation (3: extra)"
    ]


def test_splits_without_labels(library: Any, tmp_path: Path) -> None:
    data_dir = save(library, tmp_path / "set", {"train": [0, 1] * 4, "validation": [None, None], "test": [-1]})
    opened = open_huggingface(data_dir)
    assert len(opened["train"].keys) + len(opened["val"].keys) == 8
    assert [str(each) for each in opened.left_out] == [
        "rows of test without labels (1: row 0)",
        "rows of validation without labels (2: row 0, row 1)",
    ]
    with pytest.raises(InputError, match=r"there is no test \(found train\), for test has no labels"):
        open_huggingface(data_dir, ("test",))


def test_strings_as_labels(library: Any, tmp_path: Path) -> None:
    text = library.Value("string")
    opened = open_huggingface(save(library, tmp_path / "1", {"train": ["b\n", "a"], "test": ["a"]}, feature=text))
    assert opened["train"].classes == ("a", "b\\n")
    with pytest.raises(InputError, match="first in row 1"):
        open_huggingface(save(library, tmp_path / "2", {"train": ["b", ""], "test": ["a"]}, feature=text))


def test_labels_without_names(library: Any, tmp_path: Path) -> None:
    number, text = library.Value("int64"), library.Value("string")
    opened = open_huggingface(save(library, tmp_path / "1", {"train": [0, 2], "test": [3]}, feature=number))
    assert opened["train"].classes == opened["val"].classes == ("0", "1", "2", "3")
    opened = open_huggingface(save(library, tmp_path / "2", {"train": ["cat", "ant"], "test": ["bee"]}, feature=text))
    assert opened["train"].classes == ("ant", "bee", "cat")
    assert sorted(opened["train"].labels.tolist()) == [0, 2]
    for value in (50_000, 3_000_000, 2**62, -2):
        data_dir = save(library, tmp_path / str(value), {"train": [0, value], "test": [1]}, feature=number)
        with pytest.raises(InputError, match=rf"row 1 of train has label {value}"):
            open_huggingface(data_dir)


def test_what_the_library_passes_over_is_named(library: Any, tmp_path: Path) -> None:
    folder = fill(tmp_path / "set", "train/ant/1.png", "train/bee/2.png", "test/ant/3.png", "loose.png", "notes.md")
    (folder / "train/ant/.4.png").write_bytes(b"")
    assert [f"{each}{'!' if each.pictures else ''}" for each in open_huggingface(str(folder)).left_out] == [
        "files that are no images by their name (1: notes.md)",
        "hidden files and folders (1: train/ant/.4.png)",
        "images that are in no table (1: loose.png)!",
    ]
    saved = Path(save(library, tmp_path / "saved", {"train": [0, 1], "test": [0]}))
    assert open_huggingface(str(saved)).left_out == ()
    fill(saved, "extra.png")
    assert [each.names for each in open_huggingface(str(saved)).left_out] == [("extra.png",)]


def test_images_on_disk_may_go(library: Any, tmp_path: Path) -> None:
    folder = fill(tmp_path / "set", "train/ant/1.png", "train/bee/2.png", "test/ant/3.png")
    split = open_huggingface(str(folder))["train"]
    found = (folder / "train/ant/1.png").stat()
    assert split.stamp(0) == (found.st_size, found.st_mtime_ns)
    (folder / "train/ant/1.png").unlink()
    for call in (split.read_bytes, split.stamp):
        with pytest.raises(OSError, match="No such file"):
            call(0)
    os.mkfifo(folder / "train/ant/1.png")
    with pytest.raises(OSError, match="it is no regular file"):
        split.read_bytes(0)


def test_more_tables_that_are_refused(library: Any, tmp_path: Path) -> None:
    whole = {"train": [0, 1], "test": [0]}
    damaged = Path(save(library, tmp_path / "damaged", whole))
    next(damaged.glob("train/*.arrow")).write_bytes(b"junk" * 100)
    no_info = Path(save(library, tmp_path / "no-info", whole))
    (no_info / "train/dataset_info.json").write_text("[]")
    row = {"image": [{"bytes": png(1), "path": None}, None], "label": [0, 1]}
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["ant", "bee"])})
    library.Dataset.from_dict(row, features=features).save_to_disk(str(tmp_path / "no-image"))
    capital = fill(tmp_path / "capital", "Train/ant/1.png", "Train/bee/2.png", "Test/ant/3.png")
    latin = fill(tmp_path / "latin", "train/ant/1.png", "train/bee/2.png")
    (latin / os.fsdecode(b"train/ant/caf\xe9.png")).write_bytes(png(1))
    brackets = fill(tmp_path / "set [v1]", "train/ant/1.png", "train/bee/2.png")
    twice = save(library, tmp_path / "twice", {"train": [0, 1], "val": [0], "validation": [1]})
    for data_dir, message in (
        (damaged, "cannot be loaded ("),
        (no_info, "cannot be loaded ("),
        (tmp_path / "no-image", "row 1 has no image"),
        (capital, "the library takes Test/ for a part of train, not for test; rename it test/"),
        (latin, "surrogates not allowed"),
        (brackets, "for a pattern; rename the folder"),
        (twice, "val and validation would both be val"),
        (latin / "train/ant/1.png", "that is a file, not a folder"),
        ("~nosuchuser/x", "--data-dir ~nosuchuser/x: "),
        ("", "--data-dir '': that is no name"),
    ):
        with pytest.raises(InputError) as caught:
            open_huggingface(str(data_dir))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
