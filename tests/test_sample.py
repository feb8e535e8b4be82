"""The built-in data set: the same everywhere, different from picture to picture, and not given away by colour."""

import pickle
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ci2p_cache.errors import InputError
from pipeline.encode.datasets import ImageSplit, open_dataset
from pipeline.encode.datasets.sample import CLASSES, draw

GOLDEN = {  # class: width, height, mean red, green, blue
    "checkerboard": (350, 326, 116.9, 138.5, 152.0),
    "circle": (350, 326, 118.5, 129.3, 144.7),
    "cross": (350, 326, 121.7, 114.8, 132.3),
    "dots": (350, 326, 123.4, 109.6, 128.3),
    "ring": (350, 326, 122.3, 113.8, 132.1),
    "square": (350, 326, 118.9, 128.9, 145.3),
    "star": (350, 326, 125.8, 98.9, 119.2),
    "stripes": (350, 326, 116.8, 138.0, 151.7),
    "triangle": (350, 326, 125.0, 100.1, 120.5),
    "waves": (350, 326, 116.6, 139.0, 152.4),
}


def open_sample(seed: int = 0) -> dict[str, ImageSplit]:
    return open_dataset("sample", None, splits=None, val_fraction=None, seed=seed)


def test_items() -> None:
    opened = open_sample()
    assert {name: len(split.keys) for name, split in opened.items()} == {"train": 400, "val": 200}
    for split, count in ((opened["train"], 40), (opened["val"], 20)):
        assert split.classes == CLASSES
        assert list(split.keys) == sorted(set(split.keys))
        assert np.bincount(split.labels).tolist() == [count] * 10
        assert all(key.startswith(f"{CLASSES[label]}/") for key, label in zip(split.keys, split.labels, strict=True))
    assert opened["train"].keys[41] == "circle/0001"


def test_pictures_are_a_function_of_seed_split_and_index() -> None:
    opened = open_sample()
    train, val, other = opened["train"], opened["val"], open_sample(seed=1)["train"]
    again = pickle.loads(pickle.dumps(open_sample()["train"]))
    assert [again.read_bytes(i) for i in (399, 0)] == [train.read_bytes(i) for i in (399, 0)]
    pictures = [split.read_bytes(i) for split in (train, val, other) for i in range(20)]
    assert len(set(pictures)) == 60


def test_pictures_are_jpegs_large_enough() -> None:
    train = open_sample()["train"]
    shapes = set()
    for index in range(0, 400, 13):
        with Image.open(BytesIO(train.read_bytes(index))) as image:
            assert image.format == "JPEG"
            assert image.mode == "RGB"
            assert min(image.size) >= 256
            shapes.add(image.size)
    assert len(shapes) > 20


def test_drawing_is_the_same_on_every_machine() -> None:
    """Before JPEG, and with room for another library's sines; another stream of random numbers would show."""
    for name in CLASSES:
        image = draw(name, np.random.default_rng([1, 2, 3]))
        measured = (*image.size, *np.asarray(image).mean((0, 1)))
        assert measured == pytest.approx(GOLDEN[name], abs=0.5), name


def nearest_mean_accuracy(
    train_XD: NDArray[np.float64], val_XD: NDArray[np.float64], opened: dict[str, ImageSplit]
) -> float:
    scale = train_XD.std(0) + 1e-9
    labels = opened["train"].labels
    means = np.stack([train_XD[labels == label].mean(0) for label in range(10)]) / scale
    distances = ((val_XD / scale)[:, None] - means).__pow__(2).sum(-1)
    return float(np.mean(distances.argmin(1) == opened["val"].labels))


def test_colour_does_not_give_the_class_away() -> None:
    opened = open_sample()

    def colours(split: ImageSplit) -> NDArray[np.float64]:
        rows = []
        for index in range(len(split.keys)):
            with Image.open(BytesIO(split.read_bytes(index))) as image:
                pixels = np.asarray(image.resize((32, 32)), dtype=np.float64)
            rows.append(np.concatenate([pixels.mean((0, 1)), pixels.std((0, 1))]))
        return np.stack(rows)

    accuracy = nearest_mean_accuracy(colours(opened["train"]), colours(opened["val"]), opened)
    assert accuracy < 0.3, accuracy  # chance is 0.1; spread tells patterns from shapes a little


def test_options_that_mean_nothing_here_are_refused() -> None:
    for data_dir, fraction, seed, message in (
        ("photos", None, 0, "--data-dir photos: sample is built in"),
        (None, 0.2, 0, "--val-fraction 0.2: sample's val holds the validation images"),
        (None, None, -1, "--seed -1"),
    ):
        with pytest.raises(InputError, match=message):
            open_dataset("sample", data_dir, splits=None, val_fraction=fraction, seed=seed)
