"""One list of formats, and what is said of bytes that are none of them."""

import gzip
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from pipeline.encode.content import name_of_content, not_decoded
from pipeline.encode.formats import FORMATS, IMAGE_EXTENSIONS, PICTURE_EXTENSIONS, is_image_name, looks_like_image
from pipeline.encode.preprocess import BadImage, decode
from tests.test_preprocess import encoded, noise


@pytest.mark.parametrize("extension", sorted(IMAGE_EXTENSIONS - {"mpo"}))
def test_what_counts_as_an_image_by_name_is_decoded(extension: str) -> None:
    file_format = Image.registered_extensions()[f".{extension}"]
    image = Image.fromarray(noise(40, 30))
    assert decode(encoded(image, file_format)).size == (40, 30)
    assert file_format in FORMATS


def test_all_extensions_of_the_decoded_formats_count() -> None:
    assert {"jpg", "jpeg", "jfif", "jpe", "mpo", "png", "apng", "gif", "bmp", "dib", "tif", "tiff"} < IMAGE_EXTENSIONS
    assert {"ppm", "pgm", "pbm", "pnm", "webp", "jp2", "j2k", "jpx", "avif", "avifs"} < IMAGE_EXTENSIONS
    assert not IMAGE_EXTENSIONS & {"pfm", "ico", "psd", "tga", "heic", "svg", "pdf", "txt"}


@pytest.mark.parametrize(
    ("name", "is_image", "is_picture"),
    [
        ("a.JPG", True, True),
        ("a.b.Jfif", True, True),
        ("IMG_1.HEIC", False, True),
        ("scan.dng", False, True),
        ("drawing.svg", False, True),
        ("clip.MP4", False, True),
        ("labels.txt", False, False),
        ("jpg", False, False),
        ("x.jpg.txt", False, False),
        ("archive.tar", False, False),
        ("", False, False),
    ],
)
def test_names(name: str, is_image: bool, is_picture: bool) -> None:
    assert (is_image_name(name), looks_like_image(name)) == (is_image, is_picture)
    assert IMAGE_EXTENSIONS < PICTURE_EXTENSIONS


def saved(array: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)  # type: ignore[arg-type]
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x", "y")
    return buffer.getvalue()


def boxes(major: bytes, *brands: bytes) -> bytes:
    body = b"ftyp" + major + bytes(4) + b"".join(brands)
    return (len(body) + 4).to_bytes(4, "big") + body + bytes(400)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
CONTENTS = {
    "heic": (boxes(b"heic", b"mif1", b"heic"), r"HEIC/HEIF \(ftyp heic\), which is not .*: convert it to JPEG or PNG"),
    "heif of any brand": (boxes(b"mif1", b"heic"), r"HEIC/HEIF \(ftyp mif1\), which .*"),
    "mp4": (boxes(b"isom", b"avc1"), r"not an image: an MP4 or QuickTime video \(ftyp isom\)"),
    "quicktime": (b"\0\0\0\x08wide" + bytes(99), "not an image: an MP4 or QuickTime video"),
    "cr3": (boxes(b"crx ", b"isom"), r"a camera's raw file \(Canon CR3\), which is not decoded here .*"),
    "cr2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(99), "a camera's raw file .*"),
    "webm": (b"\x1aE\xdf\xa3" + bytes(99), "not an image: a WebM or Matroska video"),
    "avi": (b"RIFF\x99\0\0\0AVI LIST" + bytes(99), "not an image: an AVI video"),
    "svg": (b"<?xml version='1.0'?>\n<!-- by hand -->\n<svg xmlns='svg'/>", "SVG, a drawing, which .*"),
    "svg alone": (b"\xef\xbb\xbf <svg>\n</svg>", "SVG, a drawing, which .*"),
    "html": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "not an image: an HTML page, such as a web site .*"),
    "xml": (b"<?xml version='1.0'?><annotation/>", "not an image: an XML file"),
    "lfs": (LFS, r"not an image: a Git LFS pointer, whose file was not fetched \(git lfs pull\)"),
    "json": (json.dumps({"error": "gone"}).encode(), "not an image: a JSON file"),
    "text": (b"no picture, only words\n", "not an image"),
    "pdf": (b"%PDF-1.7\n" + bytes(99), "not an image: a PDF"),
    "zip": (zipped(), "not an image: a ZIP archive"),
    "gzip": (gzip.compress(b"x" * 99), "not an image: a gzip file"),
    "rar": (b"Rar!\x1a\x07\x01\0" + bytes(50), "not an image: a RAR archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(50), "not an image: a 7z archive"),
    "psd": (b"8BPS\0\1" + bytes(9), r"PSD, which is not decoded here \(JPEG, PNG, .* are\): convert it to JPEG or PNG"),
    "ico": (b"\0\0\1\0\1\0\x10\x10" + bytes(50), "ICO, which .*"),
    "exr": (b"v/1\1\2\0\0\0" + bytes(50), "OpenEXR, which .*"),
    "hdr": (b"#?RADIANCE\n" + bytes(50), "Radiance HDR, which .*"),
    "jxl": (b"\xff\x0a" + bytes(range(99)), "JPEG XL, which .*"),
    "zeros": (bytes(4096), "not an image: only zero bytes"),
    "numpy": (saved(np.zeros(9)), "not an image: a NumPy array"),
    "dicom": (bytes(128) + b"DICM\2\0" + bytes(50), "DICOM, which .*"),
    "tar": (b"x".ljust(257, b"\0") + b"ustar\x0000" + bytes(250), "not an image: a tar archive"),
    "AppleDouble": (b"\0\5\x16\7\0\2\0\0" + bytes(99), "not an image: an AppleDouble file, .*"),
    "noise": (bytes(range(1, 256)) * 20, "not an image"),
    "12-bit jpeg": (b"\xff\xd8\xff\xc1\0\x0b\x0c\0\x10\0\x10\1\1\x11\0" + bytes(9), "JPEG of 12 bits a sample, .*"),
    "2-sample jpeg": (b"\xff\xd8\xff\xc0\0\x0e\x08\0\x10\0\x10\2\1\x11\0\2\x11\0" + bytes(9), "JPEG of 2 samples a .*"),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(CONTENTS))
def test_what_is_no_image_that_is_decoded_is_named(kind: str) -> None:
    data, pattern = CONTENTS[kind]
    with pytest.raises(BadImage, match=f"^{pattern}$"):
        decode(data)


@pytest.mark.parametrize("file_format", [name for name in FORMATS if name != "AVIF"])
def test_of_formats_that_are_decoded_nothing_is_said(file_format: str) -> None:
    data = encoded(
        Image.fromarray(noise(40, 30)), file_format, **({"no_jp2": True} if file_format == "JPEG2000" else {})
    )
    assert name_of_content(data) is None
    assert not_decoded(bytes(range(1, 100))) == "not an image"


@pytest.mark.parametrize(
    "file_format", ["ICO", "TGA", "PCX", "DDS", "SGI", "ICNS", "QOI", "EPS", "PDF", "XBM", "MSP", "BLP"]
)
def test_formats_that_pillow_knows_and_ci2p_does_not_take(file_format: str) -> None:
    image = Image.fromarray(noise(64, 64)).convert({"XBM": "1", "MSP": "1", "BLP": "P"}.get(file_format, "RGB"))
    with pytest.raises(BadImage) as caught:
        decode(encoded(image, file_format))
    assert file_format in caught.value.reason
