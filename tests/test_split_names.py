"""Folders that are called like splits, as they are seen in the wild, and those that are not."""

import pytest

from ci2p_cache.errors import InputError
from pipeline.encode.datasets.split_names import (
    check_one_of_each,
    is_without_label,
    speaks_of_splits,
    split_folders,
    split_of_name,
)


@pytest.mark.parametrize(
    ("split", "names"),
    [
        (
            "train",
            "train Train TRAIN training Training_Set train-set trainset trainSet TrainingData seg_train train2017",
        ),
        ("train", "train_images images.train dataset_train train_256x256"),
        ("val", "val valid Validation validation_set VALIDATION dev dev-set val2017 valset ValidationImages"),
        ("test", "test Test testing test_set testset Test_Images seg_test test1 evaluation"),
        (None, "cat train_station trainer validity contest latest train_val traintest unlabeled pred été 2017"),
    ],
)
def test_names_of_splits(split: str | None, names: str) -> None:
    assert {name: split_of_name(name) for name in names.split()} == dict.fromkeys(names.split(), split)


def test_names_with_another_word_are_splits_in_pairs() -> None:
    assert split_folders(["birds_train", "birds_valid", "docs"]) == {"birds_train": "train", "birds_valid": "val"}
    assert split_folders(["bullet_train", "test_tube", "car"]) == {}


def test_two_folders_for_one_split_are_refused() -> None:
    check_one_of_each({"Train": "train", "val": "val"}, "here")
    with pytest.raises(InputError, match="here: val/ and validation/ are both named like val; merge them"):
        check_one_of_each({"val": "val", "validation": "val"}, "here")


def test_names_that_are_no_label() -> None:
    assert all(map(is_without_label, ("unknown", "images", "test1", "unlabeled_images", "all")))
    assert not any(map(is_without_label, ("cat", "unknown_animal", "7")))


def test_names_that_speak_of_splits() -> None:
    assert speaks_of_splits(["train_mini", "test_full"])
    assert not any(map(speaks_of_splits, ([], ["train_mini", "train_full"], ["train_mini", "car"])))
