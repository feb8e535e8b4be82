"""Animals-10 in Italian and in English."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.encode.datasets import open_dataset
from pipeline.encode.datasets.animals10 import ENGLISH
from tests.test_datasets import fill, refusal


def test_animals10_as_kaggle_serves_it(tmp_path: Path) -> None:
    names = [f"raw-img/{name}/{i}.jpeg" for name in ENGLISH for i in range(10)]
    data_dir = fill(tmp_path, [*names, "translate.py"])
    opened = open_dataset("animals10", data_dir, splits=None, val_fraction=None, seed=0)
    train, val = opened["train"], opened["val"]
    english = ("butterfly", "cat", "chicken", "cow", "dog", "elephant", "horse", "sheep", "spider", "squirrel")
    assert train.classes == val.classes == english
    assert np.bincount(val.labels).tolist() == [2] * 10
    assert {
        key.partition("/")[0]: english[label] for key, label in zip(train.keys, train.labels, strict=True)
    } == ENGLISH
    inner = open_dataset("animals10", f"{data_dir}/raw-img", splits=None, val_fraction=None, seed=0)
    assert inner["val"].keys == val.keys


@pytest.mark.parametrize("val_name", ["test", "val"])
def test_animals10_parted_already(tmp_path: Path, val_name: str) -> None:
    names = [f"train/{italian}/1.jpg" for italian in ENGLISH] + [
        f"{val_name}/{name}/1.jpg" for name in ENGLISH.values()
    ]
    data_dir = fill(tmp_path, names)
    opened = open_dataset("animals10", data_dir, splits=None, val_fraction=None, seed=0)
    assert "dog/1" in opened["val"].keys
    assert "cane/1" in opened["train"].keys
    assert opened["val"].labels[list(opened["val"].keys).index("dog/1")] == 4
    assert opened["train"].labels[list(opened["train"].keys).index("cane/1")] == 4
    assert "--val-fraction 0.2" in refusal("animals10", data_dir, None, 0.2)


def test_animals10_names_the_animal_that_is_missing(tmp_path: Path) -> None:
    data_dir = fill(tmp_path, [f"{name}/{i}.jpg" for name in ENGLISH if name != "ragno" for i in range(2)])
    message = refusal("animals10", data_dir)
    assert message.startswith(f"--data-dir {tmp_path}: no folder for ragno (spider); expected")
    fill(tmp_path, ["ragno/1.jpg", "spider/1.jpg"])
    assert "ragno and spider are the same animal" in refusal("animals10", data_dir)


@pytest.mark.real_data
def test_real_animals(real_data: Path) -> None:
    data_dir = str(real_data / "animals10-sample")
    opened = open_dataset("animals10", data_dir, splits=None, val_fraction=None, seed=0)
    assert {name: len(split.keys) for name, split in opened.items()} == {"train": 260, "val": 60}
    assert not set(opened["train"].keys) & set(opened["val"].keys)


def test_what_lies_beside_the_animals_is_counted(tmp_path: Path) -> None:
    names = [f"RAW-IMG/{name}/{i}.jpeg" for name in ENGLISH for i in range(5)]
    beside = ["translate.py", "cover.png", "more/1.jpg", "RAW-IMG/unicorn/1.jpg", "RAW-IMG/empty/x.txt"]
    opened = open_dataset("animals10", fill(tmp_path, names + beside), splits=None, val_fraction=None, seed=0)
    assert opened.layout == "Animals-10: RAW-IMG/, class folders; 20 % of each class held out for val"
    assert {(entry.what, entry.pictures): entry.names for entry in opened.left_out} == {
        ("files that are no images by their name", False): ("empty/x.txt", "translate.py"),
        ("images beside raw-img/", True): ("cover.png", "more/1.jpg"),
        ("images in folders that are none of the classes", True): ("unicorn/1.jpg",),
    }


@pytest.mark.parametrize("inner", ["raw-img/", "Train/", ""])
def test_the_folder_around_animals10_is_refused_by_name(tmp_path: Path, inner: str) -> None:
    fill(tmp_path, [f"archive/animals/{inner}{name}/1.jpg" for name in ENGLISH])
    assert refusal("animals10", str(tmp_path)).endswith(f"; give --data-dir {tmp_path}/archive/animals")


def test_animals_may_lack_in_val(tmp_path: Path) -> None:
    names = [f"Train/{name}/1.jpg" for name in ENGLISH] + ["Validation/cane/1.jpg", "Validation/unicorn/2.jpg"]
    opened = open_dataset("animals10", fill(tmp_path, names), splits=None, val_fraction=None, seed=0)
    assert opened["val"].keys == ["cane/1"]
    assert opened["val"].labels.tolist() == [4]
    (entry,) = opened["val"].left_out
    assert (entry.names, entry.pictures) == (("Validation/unicorn/2.jpg",), True)
