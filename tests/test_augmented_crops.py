"""Crops that go through an augmentation: a function of (seed, key, number), kept by the cache's spec."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ci2p_cache.cache import open_cache
from ci2p_cache.errors import InputError
from pipeline.encode.augmentation import Augment, augment_crop
from pipeline.encode.crops import Crops, load_renderings, random_crops
from pipeline.encode.preprocess import Preprocessing
from tests.conftest import encode_folder, write_image_folder
from tests.test_stores import all_views

SMALL = Preprocessing(image_size=64, short_edge=73)


def picture() -> Image.Image:
    """Colourful noise, smooth enough to be blurred."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((96, 80), Image.Resampling.BICUBIC)


def encoded() -> bytes:
    file = io.BytesIO()
    picture().save(file, "PNG")
    return file.getvalue()


def test_an_augmentation_is_a_function_of_seed_key_and_number() -> None:
    def drawn(seed: int, key: str, number: int) -> bytes:
        return augment_crop(picture(), "authors", seed=seed, key=key, number=number).tobytes()

    places = [(seed, key, number) for seed in (0, 1) for key in ("a", "b") for number in range(6)]
    first = [drawn(*place) for place in places]
    assert [drawn(*place) for place in reversed(places)] == first[::-1]
    assert len(set(first)) > 18  # of 24; some draw no operation


def test_nothing_else_that_is_random_notices() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    augment_crop(picture(), "authors", seed=0, key="a", number=0)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


@pytest.mark.parametrize(("augment", "grey"), [("randaugment", 0.0), ("authors", 0.2)])
def test_the_authors_draw_grey_crops_too(augment: Augment, grey: float) -> None:
    crops = [np.asarray(augment_crop(picture(), augment, seed=0, key=str(i), number=0)) for i in range(200)]
    assert all(crop.shape == (80, 96, 3) for crop in crops)
    share = np.mean([np.ptp(crop.astype(int), axis=2).max() == 0 for crop in crops])
    assert abs(share - grey) < 0.1  # four times the standard error


def test_the_plain_rendering_stays_plain() -> None:
    plain, *cropped = load_renderings(encoded(), "a", SMALL, Crops(8))
    augmented_plain, *augmented = load_renderings(encoded(), "a", SMALL, Crops(8, augment="randaugment"))
    assert np.array_equal(plain, augmented_plain)
    changed = [not np.array_equal(ours, theirs) for ours, theirs in zip(augmented, cropped, strict=True)]
    assert 3 <= sum(changed) <= 8  # a quarter draw no operation


def test_a_cache_of_augmented_crops_is_its_own(tmp_path: Path) -> None:
    images = write_image_folder(tmp_path / "images", train=2, val=1)
    cropped, augmented = (
        encode_folder(images, tmp_path / augment, crops=2, augment=augment) for augment in ("none", "authors")
    )
    ours, theirs = open_cache(augmented, "train"), open_cache(cropped, "train")
    assert ours.spec.augment == "authors" and theirs.spec.augment is None
    assert open_cache(augmented, "val").spec.augment is None
    differs = [not np.array_equal(all_views(ours)[:, view], all_views(theirs)[:, view]) for view in range(6)]
    assert not any(differs[:2]) and any(differs[2:])
    with pytest.raises(InputError, match=r"augment is 'authors' there and 'randaugment' in this run \(--augment\)"):
        encode_folder(images, augmented, crops=2, augment="randaugment")


def test_an_augmentation_needs_crops() -> None:
    with pytest.raises(InputError, match="--augment authors is of crops, the plain view stays plain; give --crops K"):
        random_crops(0, None, 0, "authors")
