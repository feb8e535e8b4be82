"""Random-resized crops: torchvision's distribution and pixels, as functions of (seed, key, number) alone."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ci2p_cache.errors import InputError
from pipeline.encode.crops import NO_CROPS, RATIO, Crops, crop_box, load_renderings, random_crops
from pipeline.encode.datasets import open_dataset
from pipeline.encode.decoding import decode_batches
from pipeline.encode.preprocess import load_pixels, preprocessing
from tests.test_preprocess import SMALL, encoded, noise

Box = tuple[int, int, int, int]  # left, top, right, bottom


def torchvision_s_crop(image: Image.Image, box: Box, size: int) -> NDArray[np.int64]:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import resized_crop

    left, top, right, bottom = box
    crop = resized_crop(
        image, top, left, bottom - top, right - left, [size, size], InterpolationMode.BICUBIC, antialias=True
    )
    return np.asarray(crop, dtype=np.int64).transpose(2, 0, 1)


def torchvision_s_boxes(size: tuple[int, int], scale: tuple[float, float], count: int) -> NDArray[np.int64]:
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    image = Image.new("RGB", size)
    drawn = [RandomResizedCrop.get_params(image, list(scale), list(RATIO)) for _ in range(count)]
    return np.array([(left, top, left + width, top + height) for top, left, height, width in drawn])


scales = st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 1.0)).map(lambda pair: (min(pair), max(pair)))


@given(
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    scale=scales,
    seed=st.integers(-5, 2**40),
    key=st.text(st.characters(exclude_categories=("Cs",))),
    number=st.integers(0, 50),
)
@settings(deadline=None)
def test_a_box_lies_in_the_image_and_has_the_size_it_should(
    width: int, height: int, scale: tuple[float, float], seed: int, key: str, number: int
) -> None:
    crops = Crops(number + 1, scale, seed)
    left, top, right, bottom = crop_box((width, height), crops, key, number)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert crop_box((width, height), Crops(60, scale, seed), key, number) == (left, top, right, bottom)
    # Of the sides before they were rounded: each may have been half a pixel longer or shorter.
    longest, shortest = ((right - left + d) * (bottom - top + d) for d in (0.5, -0.5))
    is_central = (left, top) == ((width - (right - left)) // 2, (height - (bottom - top)) // 2)
    fits = shortest <= scale[1] * width * height and scale[0] * width * height <= longest
    assert fits or is_central
    ratios = ((right - left - 0.5) / (bottom - top + 0.5), (right - left + 0.5) / (bottom - top - 0.5))
    assert ratios[0] <= RATIO[1] and RATIO[0] <= ratios[1]


def test_golden_boxes() -> None:
    """A cache that is resumed on another machine relies on these."""
    boxes = [crop_box((500, 375), Crops(2, (0.25, 1.0), 0), "red/000", number) for number in range(2)]
    boxes += [crop_box((500, 375), Crops(1, (0.08, 1.0), 7), "grün/ü", 0)]
    boxes += [crop_box((1, 5000), Crops(1), "long", 0), crop_box((5000, 100), Crops(1, (0.9, 1.0)), "wide", 0)]
    assert boxes == GOLDEN_BOXES


@pytest.mark.parametrize(("size", "scale"), [((500, 375), (0.08, 1.0)), ((333, 500), (0.25, 1.0))])
def test_boxes_are_distributed_as_torchvision_s(size: tuple[int, int], scale: tuple[float, float]) -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs the extra [imagenet]")
    count = 3000
    ours = np.array([crop_box(size, Crops(count, scale), "image", number) for number in range(count)])
    theirs = torchvision_s_boxes(size, scale, count)
    for of in (
        lambda box: (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]),
        lambda box: (box[:, 2] - box[:, 0]) / (box[:, 3] - box[:, 1]),
        lambda box: box[:, 0],
        lambda box: box[:, 3],
    ):
        assert stats.ks_2samp(of(ours), of(theirs)).pvalue > 0.01


def test_crops_of_an_image_and_of_two_images_differ() -> None:
    crops = Crops(20)
    boxes = [crop_box((500, 375), crops, key, number) for key in ("a", "b") for number in range(20)]
    boxes += [crop_box((500, 375), Crops(20, seed=1), "a", number) for number in range(20)]
    assert len(set(boxes)) == 60


@pytest.mark.parametrize(("width", "height", "size"), [(500, 375, 256), (60, 44, 64), (700, 90, 32), (3, 2, 32)])
def test_pixels_are_those_of_torchvision_s_resized_crop(width: int, height: int, size: int) -> None:
    image = Image.fromarray(noise(width, height))
    crops = Crops(4, (0.1, 1.0), 3)
    renderings = load_renderings(encoded(image), "key", preprocessing(size), crops)
    assert renderings.shape == (5, 3, size, size) and renderings.dtype == np.uint8
    assert np.array_equal(renderings[0], load_pixels(encoded(image), preprocessing(size)))
    for number, pixels in enumerate(renderings[1:]):
        expected = torchvision_s_crop(image, crop_box(image.size, crops, "key", number), size)
        assert np.abs(pixels - expected).max() <= 1


def test_a_file_is_decoded_once_for_all_its_renderings(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    open_image = Image.open
    monkeypatch.setattr(
        Image, "open", lambda *arguments, **options: opened.append(1) or open_image(*arguments, **options)
    )
    load_renderings(encoded(Image.fromarray(noise(60, 44))), "key", SMALL, Crops(7))
    assert len(opened) == 1


def test_c1_pixels_do_not_depend_on_batches_workers_or_neighbours(image_folder: Path) -> None:
    train = open_dataset("folder", str(image_folder), splits=None, val_fraction=None, seed=0)["train"]
    crops = Crops(2, seed=5)

    def pixels(batches: list[list[int]], workers: int) -> dict[int, bytes]:
        decoded = decode_batches(train, SMALL, batches, workers=workers, pin=False, crops=crops)
        return {
            index: batch.pixels[:, place].numpy().tobytes()
            for batch in decoded
            for place, index in enumerate(batch.indices)
        }

    alone = pixels([[index] for index in range(12)], 0)
    assert pixels([[11, 3, 7, 0], [1, 2, 4, 5, 6], [8, 9, 10]], 2) == alone
    for index, expected in alone.items():
        direct = load_renderings(train.read_bytes(index), train.keys[index], SMALL, crops)
        assert direct.tobytes() == expected


def test_without_crops_there_is_the_plain_rendering_alone() -> None:
    data = encoded(Image.fromarray(noise(60, 44)))
    assert np.array_equal(load_renderings(data, "key", SMALL, NO_CROPS), load_pixels(data, SMALL)[None])
    assert random_crops(0, None, 3).count == 0


@pytest.mark.parametrize(
    ("count", "scale", "message"),
    [
        (2, (0.5, 0.25), r"--crop-scale 0.5 0.25: give the least and the largest share of the area"),
        (2, (0.0, 1.0), "--crop-scale 0 1"),
        (2, (0.1, 1.01), "--crop-scale 0.1 1.01"),
        (2, (float("nan"), 1.0), "--crop-scale nan 1"),
        (0, (0.25, 1.0), "--crop-scale 0.25 1 is for crops; give --crops K too, or leave it out"),
        (-1, None, "--crops is -1"),
    ],
)
def test_settings_out_of_range_are_refused(count: int, scale: tuple[float, float] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        random_crops(count, scale, 0)


@pytest.mark.real_data
def test_crops_of_real_photographs_agree_with_torchvision(real_data: Path) -> None:
    paths = sorted((real_data / "imagenette" / "val").rglob("*.JPEG"))[::400]
    assert paths
    crops = Crops(2, (0.08, 1.0))
    for path in paths:
        data = path.read_bytes()
        renderings = load_renderings(data, path.stem, preprocessing(), crops)
        with Image.open(BytesIO(data)) as image:
            whole = image.convert("RGB")
        for number, pixels in enumerate(renderings[1:]):
            expected = torchvision_s_crop(whole, crop_box(whole.size, crops, path.stem, number), 256)
            assert np.abs(pixels - expected).max() <= 2


GOLDEN_BOXES = [(107, 1, 493, 323), (46, 51, 371, 362), (226, 42, 474, 342), (0, 2499, 1, 2500), (2433, 0, 2566, 100)]
