"""Metadata has no veto: texts, profiles and previews may be damaged or huge, and the picture comes out the same."""

import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile, PngImagePlugin

from pipeline.encode import metadata
from pipeline.encode.preprocess import BadImage, decode
from tests.test_preprocess import encoded, noise
from tests.tiff_files import SHORT, tiff

IMAGE = Image.fromarray(noise(60, 44))
BOMB = zlib.compress(bytes(3 << 20))  # beyond what Pillow unfolds of a text


def chunk(name: bytes, body: bytes, sound: bool = True) -> bytes:
    checksum = zlib.crc32(name + body) ^ (0 if sound else 1)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def with_chunks(data: bytes, *chunks: bytes, before: bytes = b"IDAT") -> bytes:
    at = data.index(before) - 4
    return data[:at] + b"".join(chunks) + data[at:]


def turned(orientation: int = 6) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


PNG = encoded(IMAGE)
ODD_CHUNKS = {
    "a text beyond a megabyte": chunk(b"zTXt", b"workflow\0\0" + BOMB),
    "an international text beyond a megabyte": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
    "a profile beyond a megabyte": chunk(b"iCCP", b"icc\0\0" + BOMB),
    "texts beyond 64 megabytes": b"".join(
        chunk(b"zTXt", b"k%d\0\0" % number + zlib.compress(bytes(1 << 20))) for number in range(66)
    ),
    "a text of an unknown compression": chunk(b"zTXt", b"workflow\0\7abc"),
    "a profile of an unknown compression": chunk(b"iCCP", b"icc\0\7abc"),
    "an empty profile": chunk(b"iCCP", b""),
    "a short gamma": chunk(b"gAMA", b"\0"),
    "a short resolution": chunk(b"pHYs", b"\0\0"),
    "short chromaticities": chunk(b"cHRM", bytes(3)),
    "an empty intent": chunk(b"sRGB", b""),
    "a short animation": chunk(b"acTL", b"\0"),
    "an animation out of order": chunk(b"acTL", bytes(7) + b"\2") + chunk(b"fcTL", b"\0\0\0\5" + bytes(22)),
    **{f"a wrong checksum in {name}": chunk(name.encode(), b"Date\x000", sound=False) for name in
       ("tEXt", "zTXt", "iTXt", "eXIf", "gAMA", "pHYs", "tIME", "iCCP", "sBIT", "prVt", "bKGD", "hIST")},
}  # fmt: skip


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("kind", list(ODD_CHUNKS))
def test_what_stands_around_the_pixels_of_a_png(kind: str, before: bytes) -> None:
    limits = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY, ImageFile.LOAD_TRUNCATED_IMAGES
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(decode(with_chunks(PNG, ODD_CHUNKS[kind], before=before)), IMAGE)
    assert limits == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY, ImageFile.LOAD_TRUNCATED_IMAGES)


@pytest.mark.parametrize("kind", list(ODD_CHUNKS))
def test_a_png_is_turned_upright_all_the_same(kind: str) -> None:
    data = with_chunks(encoded(IMAGE, exif=turned()), ODD_CHUNKS[kind])
    assert np.array_equal(decode(data), IMAGE.transpose(Image.Transpose.ROTATE_270))


def test_the_first_frame_of_an_animation_stays_the_first() -> None:
    frames = [Image.fromarray(noise(60, 44, seed=seed)) for seed in (1, 2)]
    for default_image in (False, True):
        data = encoded(IMAGE, save_all=True, append_images=frames, default_image=default_image)
        odd = with_chunks(data, ODD_CHUNKS["a text beyond a megabyte"])
        assert np.array_equal(decode(data), IMAGE) and np.array_equal(decode(odd), IMAGE)


@pytest.mark.parametrize("bytes_lost", [1, 12, 15, 20, 100, 320, 324, 330])
def test_a_png_that_is_cut_behind_its_pixels_has_all_of_them(bytes_lost: int) -> None:
    data = with_chunks(PNG, chunk(b"tEXt", b"Comment\0" + b"x" * 300), before=b"IEND")
    assert np.array_equal(decode(data[:-bytes_lost]), IMAGE)


def damaged_pngs() -> dict[str, bytes]:
    palette = encoded(IMAGE.convert("P"), transparency=bytes(range(256)))
    text = chunk(b"zTXt", b"workflow\0\0" + BOMB)
    damaged = {}
    for name in (b"IHDR", b"PLTE", b"tRNS"):
        at = palette.index(name)
        end = at + 4 + int.from_bytes(palette[at - 4 : at], "big")
        damaged[f"checksum of {name.decode()}"] = palette[:end] + bytes([palette[end] ^ 1]) + palette[end + 1 :]
    at = PNG.index(b"IDAT") + 200
    damaged["pixels"] = PNG[:at] + bytes([PNG[at] ^ 0xFF] * 40) + PNG[at + 40 :]
    damaged["cut"] = PNG[: len(PNG) // 2]
    damaged["cut before the pixels"] = PNG[: PNG.index(b"IDAT")]
    return damaged | {f"{name}, and a text": with_chunks(data, text, before=b"IDAT" if b"IDAT" in data else b"IHDR")
                      for name, data in damaged.items() if b"IDAT" in data}  # fmt: skip


@pytest.mark.parametrize("kind", list(damaged_pngs()))
def test_damaged_pixels_of_a_png_are_refused(kind: str) -> None:
    with pytest.raises(BadImage, match=r"^(broken|truncated): "):
        decode(damaged_pngs()[kind])


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


JPEG = encoded(IMAGE, "JPEG", exif=turned(), quality=95)
ODD_SEGMENTS = {
    "a short JFIF": segment(0xE0, b"JFIF\0"),
    "a short Adobe": segment(0xEE, b"Adobe"),
    "a short profile": segment(0xE2, b"ICC_PROFILE\0"),
    "a broken profile": segment(0xE2, b"ICC_PROFILE\0\1\1" + b"\xff" * 99),
    "a broken directory of further pictures": segment(0xE2, b"MPF\0MM\0*\0\0\0\7\xff\xff"),
    "a broken resource": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed"),
    "a resource of a name that does not end": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\xff"),
    "a resolution of too few bytes": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\2\0\0"),
    "an empty comment": segment(0xFE, b""),
    "XMP that is no XML": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmp"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", list(ODD_SEGMENTS))
def test_what_stands_around_the_pixels_of_a_jpeg(kind: str) -> None:
    data = JPEG[:2] + ODD_SEGMENTS[kind] + JPEG[2:]
    assert np.array_equal(decode(data), decode(JPEG))
    assert decode(data).size == (44, 60)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\xff" * 50]
)
@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "PNG"])
def test_a_broken_exif(file_format: str, exif: bytes) -> None:
    options: dict[str, Any] = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(IMAGE, file_format, exif=b"Exif\0\0" + exif, **options)
    assert np.array_equal(decode(data), decode(encoded(IMAGE, file_format, **options)))


def test_a_cmyk_jpeg_keeps_what_says_how_its_colours_are_stored() -> None:
    data = encoded(IMAGE.convert("CMYK"), "JPEG", quality=95)
    odd = data[:2] + ODD_SEGMENTS["a short JFIF"] + data[2:]
    assert np.array_equal(decode(odd), decode(data))


def webp_with(*chunks: tuple[bytes, bytes], flags: int = 0x2C, turn: bool = False) -> bytes:
    """A lossless WebP of the extended form, with chunks behind the picture."""
    simple = encoded(IMAGE, "WEBP", lossless=True)
    extended = b"VP8X" + struct.pack("<II", 10, flags) + struct.pack("<I", 59)[:3] + struct.pack("<I", 43)[:3]
    more = [(b"EXIF", turned().tobytes())] if turn else []
    body = b"WEBP" + extended + simple[12:]
    for name, content in (*more, *chunks):
        body += name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.filterwarnings("ignore")
def test_what_stands_around_the_pixels_of_a_webp() -> None:
    whole = webp_with((b"XMP ", b"<x:xmpmeta>" * 99))
    upright = IMAGE.transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(decode(whole), IMAGE)
    assert np.array_equal(decode(whole[:-400]), IMAGE)  # cut in what describes it
    assert np.array_equal(decode(webp_with((b"XMP ", b"<x" * 99), turn=True)[:-50]), upright)
    with pytest.raises(BadImage):
        decode(whole[:400])  # cut in the pixels


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "extension",
    [
        b"\x21\xf9\x00",
        b"\x21\xf9\x01\x00\x00",
        b"\x21\xff\x0bNETSCAPE2.0\x00",
        b"\x21\xff\x00",
        b"\x21\xfe\x00",
        b"\x21\x07\x01a\0",
    ],
)
def test_what_stands_around_the_pixels_of_a_gif(extension: bytes) -> None:
    image = IMAGE.convert("P", palette=Image.Palette.ADAPTIVE)
    data = encoded(image, "GIF")
    at = 13 + (3 << ((data[10] & 7) + 1))
    assert np.array_equal(decode(data[:at] + extension + data[at:]), image.convert("RGB"))


ODD_TAGS: dict[str, dict[int, tuple[int, list[int]]]] = {
    "a resolution without numbers": {282: (5, [0, 0]), 296: (SHORT, [2])},
    "a resolution of a strange type": {282: (2, [0x41414141]), 283: (2, [0x41414141]), 296: (SHORT, [3])},
    "a profile behind the end": {34675: (7, [0xFFFFFF00])},
    "an EXIF directory behind the end": {34665: (4, [0xFFFFFF00])},
    "a description of an unknown type": {270: (99, [1])},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", list(ODD_TAGS))
@pytest.mark.parametrize("deflate", [False, True])
def test_what_stands_around_the_pixels_of_a_tiff(kind: str, deflate: bool) -> None:
    tags = {tag: (4, [0]) for tag in ODD_TAGS[kind]}
    data = tiff(noise(60, 44), 8, 2, deflate=deflate, more={**tags, 274: (SHORT, [6])})
    for tag, (kind_of_tag, value) in ODD_TAGS[kind].items():
        entry = struct.pack("<HHI", tag, 4, 1)
        at = data.index(entry, len(data) // 2)
        count = 1 if kind_of_tag != 7 else 100_000
        data = data[:at] + struct.pack("<HHII", tag, kind_of_tag, count, value[0]) + data[at + 12 :]
    assert np.array_equal(decode(data), IMAGE.transpose(Image.Transpose.ROTATE_270))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_the_orientation_goes_last_and_the_pixels_stay(file_format: str) -> None:
    options: dict[str, Any] = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(IMAGE, file_format, exif=turned(), **options)
    stripped = list(metadata.without_metadata(data, file_format))
    as_stored = decode(data).transpose(Image.Transpose.ROTATE_90)
    assert np.array_equal(decode(stripped[-1]), as_stored)
    for each in stripped[:-1]:
        assert np.array_equal(decode(each), decode(data))


@pytest.mark.parametrize("cut", range(0, 40, 3))
@pytest.mark.parametrize("strip", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_stripping_follows_no_file_beyond_its_end(strip: str, cut: int) -> None:
    data = encoded(IMAGE.convert("P") if strip == "GIF" else IMAGE, strip)
    for stripped in metadata.without_metadata(data[:cut], strip):
        assert len(stripped) <= cut + 32


def test_a_sound_file_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> Callable[..., Any]:
        raise AssertionError("a sound file was stripped")

    monkeypatch.setattr("pipeline.encode.decode.without_metadata", never)
    assert np.array_equal(decode(with_chunks(PNG, chunk(b"tEXt", b"key\0value"))), IMAGE)
