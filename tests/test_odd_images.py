"""Every odd kind of image comes out as it should, and every bad one says why."""

import re
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pipeline.encode.preprocess import BadImage, load_pixels
from tests.test_preprocess import SMALL, encoded, noise, plain


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
    "text": (b"<html>404 not found</html>", r"not an image: an HTML page, .+"),
    "zeros": (bytes(5000), r"not an image: only zero bytes"),
    "noise": (bytes(range(1, 256)) * 9, r"not an image"),
    "truncated jpeg": (JPEG[: len(JPEG) // 2], r"truncated: image file is truncated \(\d+ bytes not processed\)"),
    "truncated png": (PNG[: len(PNG) // 2], r"truncated: .+"),
    "a jpeg's first bytes": (JPEG[:20], r"(truncated|broken|not an image).*"),
    "truncated webp": (encoded(Image.fromarray(noise(99, 99)), "WEBP")[:300], r"(truncated|broken): .+|not an image"),
    "truncated bmp": (encoded(Image.fromarray(noise(99, 99)), "BMP")[:999], r"truncated: .+"),
    "float tiff": (
        encoded(Image.fromarray(np.zeros((40, 40), np.float32)), "TIFF"),
        r"32-bit floating-point numbers from 0 to 0 have no defined white: save it as 8 or 16 bits",
    ),
    "32-bit tiff": (
        encoded(Image.fromarray(np.full((40, 40), 1 << 20, np.int32)), "TIFF"),
        r"signed 32-bit integers from 1048576 to 1048576 have no defined white: save it as 8 or 16 bits",
    ),
    "of 4 gigapixels": (
        png_header(65_535, 65_535),
        r"too large: 65535 x 65535 is more than 178956970 pixels \(--max-pixels\)",
    ),
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
