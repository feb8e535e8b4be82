"""What white is: by bits per sample, photometric and sample format, or refused with the range found."""

import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.encode.preprocess import BadImage, decode
from tests.test_preprocess import encoded
from tests.tiff_files import SHORT, tiff


def ramp(white: int, dtype: Any = np.uint64) -> NDArray[Any]:
    """[8, 64]: black at the left, white at the right."""
    return np.tile(np.linspace(0, white, 64).astype(dtype), (8, 1))


def left_to_right(data: bytes) -> list[int]:
    """The grey levels at the left edge, in the middle, and at the right edge."""
    pixels = np.asarray(decode(data))
    assert np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 0], pixels[..., 2])
    return [int(level) for level in pixels[3, [0, 32, -1], 0]]


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize(
    ("bits", "order"),
    [(1, "<"), (2, "<"), (4, ">"), (8, "<"), (8, ">"), (12, "<"), (16, "<"), (16, ">")],
)
def test_grey_tiffs_of_every_depth_reach_from_black_to_white(bits: int, order: str, deflate: bool) -> None:
    expected = np.asarray(ramp(2**bits - 1) / (2**bits - 1) * 255)[0, [0, 32, -1]]
    black_is_zero = left_to_right(tiff(ramp(2**bits - 1), bits, 1, order=order, deflate=deflate))
    white_is_zero = left_to_right(tiff(ramp(2**bits - 1), bits, 0, order=order, deflate=deflate))
    assert np.abs(black_is_zero - expected).max() <= 0.5
    assert np.abs(255 - expected - white_is_zero).max() <= 0.5


def test_16_bits_without_a_photometric_are_not_turned_over() -> None:
    data = tiff(ramp(65535), 16)
    at = data.index(struct.pack("<HHI", 262, 3, 1))
    nameless = data[:at] + struct.pack("<HHI", 261, 3, 1) + data[at + 8 :]
    assert left_to_right(nameless)[::2] == [0, 255]


@pytest.mark.parametrize(
    ("values", "bits", "sample_format", "reason"),
    [
        (ramp(255, np.int32), 32, 2, "signed 32-bit integers from 0 to 255"),
        (ramp(255, np.uint32), 32, 1, "32-bit integers from 0 to 255"),
        (ramp(2**32 - 1), 32, 1, "32-bit integers from 0 to 4294967295"),
        (ramp(65535, np.int32), 32, 2, "signed 32-bit integers from 0 to 65535"),
        (ramp(3000, np.int64) - 1000, 16, 2, "signed 16-bit integers from -1000 to 2000"),
        (ramp(100, np.int64) - 50, 8, 2, "signed 8-bit integers from -50 to 50"),
        (ramp(1, np.float32) * 0.5, 32, 3, "32-bit floating-point numbers from 0 to "),
        (np.full((4, 4), np.nan, np.float32), 32, 3, "32-bit floating-point numbers have"),
    ],
)
@pytest.mark.parametrize(("order", "deflate"), [("<", False), ("<", True), (">", False), (">", True)])
def test_numbers_without_a_white_are_refused_with_their_range(
    values: NDArray[Any], bits: int, sample_format: int, reason: str, order: str, deflate: bool
) -> None:
    if (order, sample_format, bits) == (">", 1, 32):
        reason = "TIFF of 32-bit grey, which is not decoded here"  # nor opened by Pillow
    with pytest.raises(BadImage, match=f"^{reason}.*: save it as 8 or 16 bits$"):
        decode(tiff(values, bits, 1, sample_format, order=order, deflate=deflate))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(ramp(1023), 10), "TIFF of 10-bit grey, which is not decoded here: save it as 8 or 16 bits"),
        (tiff(ramp(16383), 14, 0), "TIFF of 14-bit grey, white is zero, which .*"),
        (tiff(ramp(4095), 12, order=">"), "TIFF of 12-bit grey, which .*"),
        (tiff(ramp(1, np.float64), 64, 1, 3), "TIFF of floating-point 64-bit grey, which .*"),
        (tiff(np.zeros((8, 8, 2), int), 16), "TIFF of 16-bit grey and 1 more a pixel, which .*"),
        (tiff(np.zeros((8, 8, 5), int), 8), "TIFF of 8-bit grey and 4 more a pixel, which .*"),
        (tiff(np.zeros((8, 8), int), 16, 32803), "a camera's raw file, which .*"),
        (tiff(ramp(255), 8, more={259: (SHORT, [60000])}), "TIFF of 8-bit grey, compressed by method 60000, which .*"),
        (tiff(np.zeros((8, 8, 3), int), 16, 2, planes=True), "TIFF of 16-bit RGB in separate planes: save it with .*"),
        (tiff(np.zeros((8, 8, 3), int), 8, 8, planes=True), r"TIFF of 8-bit L\*a\*b\* in separate planes: .*"),
    ],
)
def test_tiffs_that_pillow_does_not_read_are_named(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=f"^{reason}$"):
        decode(data)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("bits", "deflate", "planes"), [(8, False, True), (16, False, False), (16, True, True)])
@pytest.mark.parametrize(("photometric", "samples", "ends"), [(2, 3, [0, 255]), (5, 4, [255, 0])])
def test_colour_tiffs(
    bits: int, deflate: bool, planes: bool, order: str, photometric: int, samples: int, ends: list[int]
) -> None:
    values = np.stack([ramp(2**bits - 1)] * samples, -1)
    data = tiff(values, bits, photometric, order=order, deflate=deflate, planes=planes)
    assert left_to_right(data)[::2] == ends


@pytest.mark.parametrize("greatest", [65535, 255])
def test_colour_maps_of_16_bits_and_those_that_hold_8(greatest: int) -> None:
    colour_map = [*np.linspace(0, greatest, 256).astype(int).tolist()] * 3
    data = tiff(ramp(255), 8, 3, more={320: (SHORT, colour_map)})
    assert left_to_right(data) == [0, 129, 255]


def test_premultiplied_grey() -> None:
    values = np.stack([ramp(255), np.full((8, 64), 255, np.uint64)], -1)
    assert left_to_right(tiff(values, 8, extra=(1,))) == [0, 129, 255]


def pnm(white: int, plain: bool = False, colour: bool = False) -> bytes:
    values = np.repeat(ramp(white), 3 if colour else 1, axis=1)
    header = b"P%d 64 8 %d\n" % ((3 if colour else 2) + (0 if plain else 3), white)
    if plain:
        return header + " ".join(map(str, values.flatten().tolist())).encode()
    return header + values.astype(">u2" if white > 255 else "u1").tobytes()


@pytest.mark.parametrize("white", [1, 100, 255, 1023, 4095, 65535])
@pytest.mark.parametrize(("plain", "colour"), [(False, False), (True, False), (False, True)])
def test_the_maxval_of_a_pnm_is_white(white: int, plain: bool, colour: bool) -> None:
    assert left_to_right(pnm(white, plain, colour))[::2] == [0, 255]


def test_a_pfm_has_no_white() -> None:
    with pytest.raises(BadImage, match=r"^32-bit floating-point numbers from 0 to 1 have no defined white"):
        decode(b"Pf 64 8 -1.0\n" + ramp(1, "<f4").tobytes())


@pytest.mark.parametrize("mode", ["I;16", "LA", "L", "1"])
def test_png_of_every_depth(mode: str) -> None:
    levels = Image.fromarray(ramp(255, np.uint8))
    image = Image.fromarray(ramp(65535, np.uint16)) if mode == "I;16" else levels.convert(mode)
    assert left_to_right(encoded(image))[::2] == [0, 255]


def jpeg2000(bits: int, no_jp2: bool) -> bytes:
    """A lossless ramp of 1 to 16 bits. Pillow writes 8 and 16; the header is told another depth afterwards.

    Numbers are stored around half of the range, which the header's depth says: so they are moved beforehand.
    """
    written = 8 if bits <= 8 else 16
    moved = ramp(2**bits - 1, np.int64) - 2 ** (bits - 1) + 2 ** (written - 1)
    image = Image.fromarray(moved.astype(np.uint8 if written == 8 else np.uint16))
    data = bytearray(encoded(image, "JPEG2000", no_jp2=no_jp2))
    at = data.index(b"\xff\x4f\xff\x51")
    data[at + 42] = bits - 1
    if not no_jp2:
        data[data.index(b"ihdr") + 4 + 10] = bits - 1
    return bytes(data)


@pytest.mark.parametrize("no_jp2", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 7, 8, 10, 12, 16])
def test_jpeg2000_of_every_depth(bits: int, no_jp2: bool) -> None:
    assert left_to_right(jpeg2000(bits, no_jp2))[::2] == [0, 255]


@pytest.mark.parametrize("data", [tiff(ramp(4095), 12), tiff(ramp(65535), 16, 0), pnm(1023), pnm(255)])
def test_grey_comes_as_rgb(data: bytes) -> None:
    assert decode(data).mode == "RGB"
