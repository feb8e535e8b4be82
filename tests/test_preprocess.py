"""Bytes to pixels: the one-step resize against resize-then-crop, orientation, settings."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from ci2p_cache.errors import InputError
from pipeline.encode import preprocess
from pipeline.encode.decode import decode_scaled
from pipeline.encode.preprocess import load_pixels, preprocessing, source_box

SMALL = preprocessing(32)


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Half noise, half slopes: a picture on which a shifted or a clipped kernel shows."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(0, 255, width)[None, :, None] * np.linspace(0.2, 1, height)[:, None, None]
    return (0.5 * slope + 0.5 * rng.uniform(0, 255, (height, width, channels))).astype(np.uint8)


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def resized_then_cropped(image: Image.Image, size: int, short_edge: int) -> NDArray[np.int64]:
    """The long way: the whole picture resized, then torchvision's CenterCrop."""
    from torchvision.transforms.functional import center_crop

    scale = short_edge / min(image.size)
    whole = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    return np.asarray(center_crop(whole, [size, size]), dtype=np.int64).transpose(2, 0, 1)


def plain(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of an RGB picture through a file without loss."""
    return load_pixels(encoded(image), SMALL)


@pytest.mark.parametrize(
    ("width", "height", "size", "short_edge"),
    [
        (500, 375, 256, 292),
        (375, 500, 256, 292),
        (292, 292, 256, 292),
        (293, 292, 256, 292),  # the offset is a half: rounds as torchvision does
        (295, 292, 256, 292),
        (40, 30, 256, 292),
        (1, 400, 32, 36),
        (400, 1, 32, 36),
        (1, 1, 32, 36),
        (1023, 641, 64, 64),
        (333, 777, 384, 438),
    ],
)
def test_one_resize_equals_resize_then_crop(width: int, height: int, size: int, short_edge: int) -> None:
    image = Image.fromarray(noise(width, height))
    pixels = load_pixels(encoded(image), preprocessing(size, short_edge))
    assert pixels.shape == (3, size, size)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert np.abs(pixels - resized_then_cropped(image, size, short_edge)).max() <= 1


def test_a_very_long_image_costs_no_giant(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def counting_resize(image: Image.Image, size: tuple[int, int], *args: Any, **options: Any) -> Image.Image:
        made.append(size)
        return resize(image, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", counting_resize)
    pixels = load_pixels(encoded(Image.fromarray(noise(1, 5000))), preprocessing())
    assert max(width * height for width, height in made) <= 256 * 256
    middle = noise(1, 5000)[2499:2501, 0].astype(int)  # the crop sees less than one source pixel
    assert np.abs(pixels[:, 128, 128] - middle.mean(0)).max() < 60
    assert source_box((1, 5000), preprocessing()) == pytest.approx((18 / 292, 2499.562, 274 / 292, 2500.438), abs=1e-3)


def test_squash_shows_the_whole_picture() -> None:
    image = Image.fromarray(noise(70, 50))
    pixels = load_pixels(encoded(image), preprocessing(64, resize_mode="squash"))
    expected = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_defaults_are_the_papers() -> None:
    assert (preprocessing().image_size, preprocessing().short_edge) == (256, 292)
    assert preprocessing(512).short_edge == 584
    assert preprocessing() == preprocess.Preprocessing()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((100,), "--image-size 100"),
        ((0,), "--image-size 0"),
        ((-32,), "--image-size -32"),
        ((256, 255), "--short-edge 255 is less than --image-size 256"),
        ((256, 292, "stretch"), "--resize-mode stretch"),
        ((256, 292, "crop", "half"), "--jpeg-decode half"),
    ],
)
def test_settings_out_of_range_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        preprocessing(*arguments)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation(orientation: int, file_format: str) -> None:
    image = Image.fromarray(noise(60, 44))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(image, file_format, exif=exif, **options)
    with Image.open(BytesIO(data)) as stored:
        upright = ImageOps.exif_transpose(stored).convert("RGB")
    assert upright.size == ((44, 60) if orientation >= 5 else (60, 44))
    assert np.array_equal(load_pixels(data, SMALL), plain(upright))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_leaves_the_picture_as_it_is_stored() -> None:
    image = Image.fromarray(noise(60, 44))
    data = encoded(image, "PNG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage")
    assert np.array_equal(load_pixels(data, SMALL), plain(image))


@pytest.mark.real_data
def test_real_photographs_agree_with_torchvision(real_data: Path) -> None:
    paths = sorted((real_data / "imagenette" / "val").rglob("*.JPEG"))[::400]
    assert paths
    for path in paths:
        with Image.open(path) as image:
            expected = resized_then_cropped(image.convert("RGB"), 256, 292)
        difference = np.abs(load_pixels(path.read_bytes(), preprocessing()) - expected)
        assert np.mean(difference > 0) < 0.005
        assert difference.max() <= 2  # two roundings that fall the other way on top of one another


def photograph(width: int, height: int) -> Image.Image:
    """Smooth shapes, as a photograph has at a scale far above its pixels."""
    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(("size", "scale"), [((640, 480), 4), ((640, 160), 2), ((140, 300), 1), ((400, 146), 2)])
def test_a_large_jpeg_is_decoded_at_a_reduced_scale_that_leaves_twice_what_is_needed(
    size: tuple[int, int], scale: int
) -> None:
    scaled = preprocessing(32, jpeg_decode="scaled")
    assert scaled.least_side == 2 * 36 and preprocessing(32).least_side is None
    data = encoded(photograph(*size), "JPEG", quality=95)
    assert preprocess.decode(data).size == size
    smaller = preprocess.decode(data, scaled.least_side)
    assert smaller.size == (size[0] // scale, size[1] // scale) and min(smaller.size) >= 72
    difference = np.abs(load_pixels(data, scaled).astype(int) - load_pixels(data, preprocessing(32)))
    assert difference.max() <= 4 and (scale > 1 or difference.max() == 0)


def test_only_jpegs_are_decoded_at_a_reduced_scale() -> None:
    data = encoded(photograph(640, 480))
    scaled = preprocessing(32, jpeg_decode="scaled")
    assert np.array_equal(load_pixels(data, scaled), load_pixels(data, preprocessing(32)))
    assert preprocessing(32, 36, "squash", "scaled").least_side == 64


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("resize_mode", ["crop", "squash"])
@pytest.mark.parametrize(("size", "scale"), [((640, 480), 4), ((637, 478), 4), ((611, 577), 8), ((301, 155), 2)])
def test_a_reduced_scale_moves_no_picture_whose_sides_are_no_multiples_of_it(
    size: tuple[int, int], scale: int, resize_mode: Any, orientation: int
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(photograph(*size), "JPEG", quality=95, exif=exif)
    full, scaled = (preprocessing(32, 36, resize_mode, mode) for mode in ("full", "scaled"))
    decoded = decode_scaled(data, scaled.least_side)
    assert decoded.scale == scale and decoded.size == preprocess.decode(data).size
    assert decoded.image.size == tuple(-(-length // scale) for length in decoded.size)
    difference = np.abs(load_pixels(data, scaled).astype(int) - load_pixels(data, full))
    assert difference.max() <= 4 and difference.mean() < 0.5
