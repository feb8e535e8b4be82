"""Bytes to pixels: the one-step resize against resize-then-crop, every odd kind of image, and what is refused."""

import os
import re
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from ci2p_cache.errors import InputError
from pipeline.encode import preprocess
from pipeline.encode.preprocess import BadImage, load_pixels, preprocessing, source_box

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


def odd_kinds() -> dict[str, tuple[bytes, Image.Image]]:
    """Name -> (file, the RGB picture that it must come out as)."""
    rgb = Image.fromarray(noise(50, 40))
    grey = Image.fromarray(noise(50, 40, 1)[..., 0])
    alpha = Image.fromarray(noise(50, 40, 1, seed=1)[..., 0])
    rgba, la = rgb.copy(), grey.copy().convert("LA")
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
    bits = grey.convert("1")
    return {
        "greyscale": (encoded(grey), grey.convert("RGB")),
        "greyscale with alpha": (encoded(la), grey.convert("RGB")),
        "rgba: alpha is dropped": (encoded(rgba), rgb),
        "palette": (encoded(palette), palette.convert("RGB")),
        "palette with a transparent entry": (encoded(palette, transparency=3), palette.convert("RGB")),
        "palette with transparency per entry": (
            encoded(palette, transparency=bytes(range(64))),
            palette.convert("RGB"),
        ),
        "greyscale with a transparent level": (encoded(grey, transparency=7), grey.convert("RGB")),
        "1 bit": (encoded(bits), bits.convert("RGB")),
        "cmyk tiff": (encoded(rgb.convert("CMYK"), "TIFF"), rgb.convert("CMYK").convert("RGB")),
        "bmp": (encoded(rgb, "BMP"), rgb),
        "ppm": (encoded(rgb, "PPM"), rgb),
        "tiff, lzw": (encoded(rgb, "TIFF", compression="tiff_lzw"), rgb),
        "animated gif": (encoded(palette, "GIF", save_all=True, append_images=[bits]), palette.convert("RGB")),
        "animated webp": (encoded(rgb, "WEBP", lossless=True, save_all=True, append_images=[grey]), rgb),
        "apng": (encoded(rgb, "PNG", save_all=True, append_images=[grey.convert("RGB")]), rgb),
    }


@pytest.mark.parametrize("kind", list(odd_kinds()))
def test_odd_kinds(kind: str) -> None:
    data, expected = odd_kinds()[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = load_pixels(data, SMALL)
    assert np.array_equal(pixels, plain(expected))


def test_cmyk_jpeg_is_not_inverted() -> None:
    image = Image.new("RGB", (40, 40), (250, 40, 30))
    pixels = load_pixels(encoded(image.convert("CMYK"), "JPEG", quality=100), SMALL)
    assert np.abs(pixels[:, 16, 16].astype(int) - (250, 40, 30)).max() <= 4


@pytest.mark.parametrize("kind", ["png", "tiff", "tiff big-endian", "pgm"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    values = np.linspace(0, 65535, 40 * 40).astype(np.uint16).reshape(40, 40)
    if kind == "pgm":
        data = b"P5 40 40 65535\n" + values.astype(">u2").tobytes()
    elif kind == "tiff big-endian":
        data = encoded(Image.frombytes("I;16B", (40, 40), values.astype(">u2").tobytes()), "TIFF")
    else:
        data = encoded(Image.fromarray(values), kind.upper())
    expected = Image.fromarray(np.round(values / 65535 * 255).astype(np.uint8)).convert("RGB")
    assert np.array_equal(load_pixels(data, SMALL), plain(expected))


def test_above_pils_limit_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # from 2000 pixels on, PIL itself refuses
    image = Image.fromarray(noise(99, 88))
    for file_format in ("PNG", "JPEG", "WEBP", "TIFF", "GIF"):
        data = encoded(image, file_format)
        with pytest.raises(Image.DecompressionBombError):
            Image.open(BytesIO(data))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert load_pixels(data, SMALL).std() > 20
        assert Image.MAX_IMAGE_PIXELS == 1000


def test_the_limit_of_the_process_is_back_after_any_mix_of_threads() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    good, bad = encoded(Image.fromarray(noise(50, 40))), b"no image"
    barrier = threading.Barrier(4)

    def work(data: bytes) -> None:
        barrier.wait(10)
        for _ in range(50):
            try:
                load_pixels(data, SMALL)
            except BadImage:
                assert data is bad

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, [good, bad, good, bad]))
    assert limit == Image.MAX_IMAGE_PIXELS


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size, for the header alone is read before it is refused."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


JPEG = encoded(Image.fromarray(noise(200, 200)), "JPEG")
PNG = encoded(Image.fromarray(noise(200, 200)))
BAD = {
    "empty": (b"", r"empty file"),
    "text": (b"<html>404 not found</html>", r"not an image"),
    "zeros": (bytes(5000), r"not an image"),
    "truncated jpeg": (JPEG[: len(JPEG) // 2], r"truncated: image file is truncated \(\d+ bytes not processed\)"),
    "truncated png": (PNG[: len(PNG) // 2], r"truncated: .+"),
    "a jpeg's first bytes": (JPEG[:20], r"(truncated|broken|not an image).*"),
    "truncated webp": (encoded(Image.fromarray(noise(99, 99)), "WEBP")[:300], r"(truncated|broken): .+|not an image"),
    "truncated bmp": (encoded(Image.fromarray(noise(99, 99)), "BMP")[:999], r"truncated: .+"),
    "float tiff": (
        encoded(Image.fromarray(np.zeros((40, 40), np.float32)), "TIFF"),
        r"mode F has no defined value range",
    ),
    "32-bit tiff": (
        encoded(Image.fromarray(np.full((40, 40), 1 << 20, np.int32)), "TIFF"),
        r"mode I with values 1048576 to 1048576 is not 16-bit grey",
    ),
    "beyond a gigapixel": (png_header(40_000, 40_000), r"too large: 40000 x 40000 is more than 1073741824 pixels"),
}


@pytest.mark.parametrize("kind", list(BAD))
def test_bad_images_say_why(kind: str) -> None:
    data, pattern = BAD[kind]
    with pytest.raises(BadImage) as caught:
        load_pixels(data, SMALL)
    reason = caught.value.reason
    assert re.fullmatch(pattern, reason), reason
    assert "\n" not in reason
    assert "0x" not in reason
    with pytest.raises(BadImage) as again:
        load_pixels(data, SMALL)
    assert again.value.reason == reason


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
def test_damage_anywhere_is_a_bad_image_or_an_image(file_format: str) -> None:
    data = encoded(Image.fromarray(noise(40, 30)), file_format)
    rng = np.random.default_rng(0)
    for turn in range(150):
        damaged = bytearray(data)
        if turn % 2:
            del damaged[int(rng.integers(1, len(data))) :]
        for place in rng.integers(0, min(len(damaged), 300), size=4 if turn % 2 == 0 else 0):
            damaged[place] = int(rng.integers(256))
        try:
            assert load_pixels(bytes(damaged), SMALL).shape == (3, 32, 32)
        except BadImage as error:
            assert error.reason


@pytest.mark.real_data
def test_real_photographs_agree_with_torchvision() -> None:
    folder = os.environ.get("CI2P_TEST_DATA")
    if folder is None:
        pytest.skip("CI2P_TEST_DATA names no folder")
    paths = sorted(Path(folder, "imagenette", "val").rglob("*.JPEG"))[::400]
    assert paths
    for path in paths:
        with Image.open(path) as image:
            expected = resized_then_cropped(image.convert("RGB"), 256, 292)
        difference = np.abs(load_pixels(path.read_bytes(), preprocessing()) - expected)
        assert np.mean(difference > 0) < 0.005
        assert difference.max() <= 2  # two roundings that fall the other way on top of one another
