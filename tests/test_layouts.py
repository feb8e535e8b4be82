"""What a folder of images is recognised to be: splits by any usual name, classes, or one level too high."""

import os
from pathlib import Path

import pytest

from ci2p_cache.left_out import merge_left_out
from pipeline.encode.datasets import ImageDataset, open_dataset
from pipeline.encode.datasets.description import describe_dataset
from tests.test_datasets import fill, refusal


def images(*folders: str, count: int = 3) -> list[str]:
    return [f"{folder}/{number}.jpg" for folder in folders for number in range(count)]


def classes_in(*splits: str, count: int = 3) -> list[str]:
    return images(*(f"{split}/{name}" for split in splits for name in ("cat", "dog")), count=count)


def open_folder(
    data_dir: str, splits: tuple[str, ...] | None = None, val_fraction: float | None = None
) -> ImageDataset:
    return open_dataset("folder", data_dir, splits=splits, val_fraction=val_fraction, seed=0)


def left_out(opened: ImageDataset) -> dict[str, tuple[int, bool, tuple[str, ...]]]:
    """What -> how many, whether they look like images, the first names."""
    everything = merge_left_out(opened.left_out, *(split.left_out for split in opened.values()))
    return {entry.what: (entry.count, entry.pictures, entry.names) for entry in everything}


@pytest.mark.parametrize(
    ("folders", "splits", "layout"),
    [
        (["Train", "Test"], ["train", "val"], "class folders in Train/ and Test/; Test/ is val"),
        (["TRAIN", "VALID"], ["train", "val"], "class folders in TRAIN/ and VALID/"),
        (["training_set", "val_set"], ["train", "val"], "class folders in training_set/ and val_set/"),
        (["train", "valid", "test"], ["train", "val", "test"], "class folders in train/, valid/ and test/"),
        (["train2017", "val2017"], ["train", "val"], "class folders in train2017/ and val2017/"),
        (["birds_train", "birds_dev"], ["train", "val"], "class folders in birds_train/ and birds_dev/"),
        (["train", "dev", "evaluation"], ["train", "val", "test"], "class folders in train/, dev/ and evaluation/"),
        (["abc_train/abc_train", "abc_val"], ["train", "val"], "class folders in abc_train/abc_train/ and abc_val/"),
        (
            ["seg_train/seg_train", "seg_test/seg_test"],
            ["train", "val"],
            "class folders in seg_train/seg_train/ and seg_test/seg_test/; seg_test/seg_test/ is val",
        ),
    ],
)  # fmt: skip
def test_splits_by_their_usual_names(tmp_path: Path, folders: list[str], splits: list[str], layout: str) -> None:
    opened = open_folder(fill(tmp_path, classes_in(*folders)))
    assert list(opened) == splits
    assert opened.layout == layout
    for split, folder in zip(opened.values(), folders, strict=True):
        assert split.classes == ("cat", "dog")
        assert split.keys == [f"{name}/{number}" for name in ("cat", "dog") for number in range(3)]
        assert split.read_bytes(4) == f"{folder}/dog/1.jpg".encode()
    assert not left_out(opened)


def test_one_split_alone_is_a_split(tmp_path: Path) -> None:
    opened = open_folder(fill(tmp_path, classes_in("Training")), val_fraction=0.4)
    assert {name: len(split.keys) for name, split in opened.items()} == {"train": 4, "val": 2}
    assert opened["train"].classes == ("cat", "dog")
    assert opened.layout == "class folders in Training/; 40 % of each class held out for val"


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (classes_in("Train", "train"), ["Train/ and train/ are both named like train"]),
        (classes_in("train", "val", "validation"), ["val/ and validation/ are both named like val"]),
        (classes_in("set/train", "set/val"), ["set/ is no class, for it holds train/ and val/", "--data-dir {}/set;"]),
        ([*classes_in("set/train", "set/val"), "README.md", "docs/x.txt"], ["give --data-dir {}/set;"]),
        (classes_in("a/b/Train", "a/b/Test"), ["a/b/ is no class", "give --data-dir {}/a/b;"]),
        (classes_in("data/train"), ["data/ is no class, for it holds train/", "give --data-dir {}/data;"]),
        (classes_in("animals"), ["animals/ would be the only class", "cat/ and dog/", "give --data-dir {}/animals"]),
        ([*classes_in("a/b"), "docs/x.txt"], ["a/b/ would be the only class", "give --data-dir {}/a/b"]),
        (classes_in("train/images", "val/images"), ["train/images/ would be the only class", "up into train/"]),
        (classes_in("cat/train", "cat/test", "dog/train", "dog/test"), ["cat/ and dog/ hold splits each ("]),
        (classes_in("train/train", "train/val"), ["train/ holds train/ and val/", "give --data-dir {}/train if"]),
        (classes_in("train_mini", "test_full"), ["train_mini/", "test_full/", "are named like splits; rename them"]),
        (
            [*images("train/cat", "val/cat"), "train/dog/._1.jpg"],
            ["train/dog/ holds no images", "(1: train/dog/._1.jpg)"],
        ),
        (
            [*images("a", "b"), "c/1.txt"],
            ["the class folder c/ holds no images", "no images by their name (1: c/1.txt)"],
        ),
        ([*images("a", "b"), "c/1.heic"], ["the class folder c/ holds no images", "not read here (1: c/1.heic)"]),
        (classes_in("train") + images("val"), ["val/: images lie in it directly", "move those of each class"]),
        ([*classes_in("train"), "val/cat/1.txt"], ["val/ holds no images", "(1: val/cat/1.txt)"]),
        (classes_in("train") + images("val/Cat"), ["val/ has the class 'Cat', which train/ has not (train/ has "]),
        (images("train", "test"), ["train/: images lie in it directly"]),
        (classes_in("train") + images("val/images"), ["the images of val/ lie in images/, which is no class"]),
        (images("cafe\u0301", "caf\u00e9"), [r"'cafe\u0301' and 'caf\xe9' would have one name"]),
    ],
)  # fmt: skip
def test_folders_that_are_no_data_set(tmp_path: Path, names: list[str], parts: list[str]) -> None:
    message = refusal("folder", fill(tmp_path, names))
    for part in ["--data-dir {}: ", *parts]:
        assert part.format(tmp_path) in message, message


def test_empty_class_folders(tmp_path: Path) -> None:
    data_dir = fill(tmp_path, [*classes_in("train"), *images("val/cat")])
    (tmp_path / "val/dog").mkdir()
    opened = open_folder(data_dir)
    assert opened["val"].classes == ("cat", "dog")
    assert opened["val"].labels.tolist() == [0, 0, 0]
    (tmp_path / "train/bird").mkdir()
    assert "the class folder train/bird/ holds no images, it is empty; fill or remove it" in refusal("folder", data_dir)


def test_a_class_called_train_among_others(tmp_path: Path) -> None:
    assert open_folder(fill(tmp_path, images("car", "plane", "train")))["train"].classes == ("car", "plane", "train")
    nested = fill(tmp_path / "nested", images("by_road/car", "by_rail/train", "by_rail/tram"))
    assert open_folder(nested)["train"].classes == ("by_rail", "by_road")


def test_what_lies_beside_is_counted_and_named(tmp_path: Path) -> None:
    beside = [
        "README.md",
        ".git/HEAD",
        "loose.jpg",
        "extra/1.jpg",
        "extra/why.txt",
        "train/loose.png",
        "val/photo.heic",
    ]
    opened = open_folder(fill(tmp_path, [*classes_in("train", "val"), *beside, "val/cat/.DS_Store"]))
    assert left_out(opened) == {
        "files that are no images by their name": (2, False, ("README.md", "extra/why.txt")),
        "hidden files and folders": (2, False, (".git/", "val/cat/.DS_Store")),
        "images beside the class folders": (1, True, ("train/loose.png",)),
        "images beside the folders of the splits": (1, True, ("loose.jpg",)),
        "images in folders that are no split": (1, True, ("extra/1.jpg",)),
        "pictures in a format that is not read here": (1, True, ("val/photo.heic",)),
    }
    assert {entry.what for entry in opened["train"].left_out} == {"images beside the class folders"}
    flat = open_folder(fill(tmp_path / "flat", [*images("a", "b"), "loose.jpg", "a/x.txt", "__MACOSX/a/._1.jpg"]))
    assert left_out(flat) == {
        "files and folders of operating systems": (1, False, ("__MACOSX/",)),
        "files that are no images by their name": (1, False, ("a/x.txt",)),
        "images beside the class folders": (1, True, ("loose.jpg",)),
    }


@pytest.mark.parametrize("test_images", [["test/1.jpg", "test/2.jpg"], ["test/unknown/1.jpg", "test/unknown/2.jpg"]])
def test_test_images_without_labels_are_no_part(tmp_path: Path, test_images: list[str]) -> None:
    data_dir = fill(tmp_path, [*classes_in("train"), *test_images])
    opened = open_folder(data_dir, val_fraction=0.3)
    assert list(opened) == ["train", "val"]
    what = "images of test/ without class folders, so without labels"
    assert left_out(opened) == {what: (2, False, tuple(test_images))}
    message = refusal("folder", data_dir)
    assert "test/ holds 2 images, but no class folders, so no labels" in message
    assert "--val-fraction 0.1" in message
    message = refusal("folder", data_dir, ("test",), 0.3)
    assert "there is no test (found train/), for test/ holds 2 images, but no class folders" in message
    fill(tmp_path, classes_in("val"))
    assert list(open_folder(data_dir)) == ["train", "val"]
    fill(tmp_path, classes_in("test"))
    if test_images[0] == "test/1.jpg":  # now they lie beside class folders
        opened = open_folder(data_dir)
        assert list(opened) == ["train", "val", "test"]
        assert left_out(opened) == {"images beside the class folders": (2, True, tuple(test_images))}
    else:
        assert "test/ has the class unknown, which train/ has not" in refusal("folder", data_dir, ("test",))


def test_a_cache_in_the_data_folder_is_no_class(tmp_path: Path) -> None:
    data_dir = fill(tmp_path, images("a", "b"))
    before = open_folder(data_dir)["train"].keys
    spec = tmp_path / "caches/some/train/spec.json"
    spec.parent.mkdir(parents=True)
    spec.write_text('{"format_version": 1, "weights_sha256": "0"}')
    opened = open_folder(data_dir)
    assert opened["train"].keys == before
    assert left_out(opened) == {"caches and runs of ci2p": (1, False, ("caches/",))}
    assert "that is a cache or a run of ci2p" in refusal("folder", str(tmp_path / "caches"))


def test_names_in_latin_1_and_with_control_characters(tmp_path: Path) -> None:
    names = [b"caf\xe9/\xfc.jpg", b"caf\xe9/b.jpg", b"a\nb/x\t\x1b[31m.jpg", b"a\nb/y.jpg", b"caf\xe9/n\xe9.txt"]
    for name in names:
        path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))  # noqa: PTH118
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError:
            pytest.skip("this file system takes UTF-8 alone")
        path.write_bytes(name)
    opened = open_folder(str(tmp_path), val_fraction=0.5)
    assert opened["train"].classes == (r"a\nb", r"caf\xe9")
    items = {key: split.read_bytes(i) for split in opened.values() for i, key in enumerate(split.keys)}
    assert items == {
        r"caf\xe9/\xfc": names[0],
        r"caf\xe9/b": names[1],
        r"a\nb/x\t\x1b[31m": names[2],
        r"a\nb/y": names[3],
    }
    assert left_out(opened) == {"files that are no images by their name": (1, False, (r"caf\xe9/n\xe9.txt",))}
    "\n".join([*items, *describe_dataset(opened)]).encode()  # no lone surrogates
    (tmp_path / r"caf\xe9").mkdir()
    (tmp_path / r"caf\xe9/1.jpg").touch()
    message = refusal("folder", str(tmp_path))
    assert r"would have one name, caf\xe9; rename or merge them" in message


def test_the_description_is_short_and_complete(tmp_path: Path) -> None:
    data_dir = fill(tmp_path, [*classes_in("Train"), *images("Test/cat", count=1), "notes.txt", "Train/loose.jpg"])
    assert describe_dataset(open_folder(data_dir)) == [
        f"images in {tmp_path}: class folders in Train/ and Test/; Test/ is val",
        "  train  6 images, 2 classes: cat, dog",
        "  val    1 image, 2 classes (1 without images)",
        "  left out: images beside the class folders (1: Train/loose.jpg)",
        "  left out: files that are no images by their name (1: notes.txt)",
    ]
    many = fill(tmp_path / "many", [f"{number:04d}{'x' * 40}/{i}.jpg" for number in range(1200) for i in (0, 1)])
    lines = describe_dataset(open_folder(many))
    assert lines[0] == f"images in {many}: class folders; 10 % of each class held out for val"
    assert lines[1] == f"  train  1,200 images, 1,200 classes: 0000{'x' * 40}, 0001{'x' * 40}, ..."
    assert lines[2:] == ["  val    1,200 images, 1,200 classes"]
    sample = open_dataset("sample", None, splits=None, val_fraction=None, seed=0)
    assert describe_dataset(sample)[0] == "images: built-in pictures, drawn"
