"""What bytes are that are no image which is decoded here: for a message that says more than "not an image"."""

import json
import re
import struct
from io import BytesIO

from PIL import Image

from pipeline.encode.formats import FORMATS

_HEIF_BRANDS = set(b"heic heix heim heis hevc hevx hevm hevs mif1 mif2 msf1 avci".split())
_AVIF_BRANDS = {b"avif", b"avis"}
_RAW_BRANDS = {b"crx "}

# Beginning of a file -> what it is. Longer beginnings of the same bytes stand first.
_BEGINNINGS = (
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, whose file was not fetched (git lfs pull)"),
    (b"version https://hawser.github.com/spec/", "a Git LFS pointer, whose file was not fetched (git lfs pull)"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"II\xbc", "JPEG XR"),
    (b"8BPS", "PSD"),
    (b"\x1aE\xdf\xa3", "a WebM or Matroska video"),
    (b"FLV\x01", "an FLV video"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media file"),
    (b"\x00\x00\x01\xba", "an MPEG video"),
    (b"\x00\x00\x01\xb3", "an MPEG video"),
    (b"OggS", "an Ogg file"),
    (b"%PDF-", "a PDF"),
    (b"%!PS", "PostScript or EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"PK\x05\x06", "a ZIP archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\x00", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"#?RGBE", "Radiance HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file (Fujifilm)"),
    (b"FOVb", "a camera's raw file (Sigma)"),
    (b"\x00MRM", "a camera's raw file (Minolta)"),
    (b"II\x1a\x00\x00\x00HEAPCCDR", "a camera's raw file (Canon)"),
    (b"IIRO", "a camera's raw file (Olympus)"),
    (b"IIRS", "a camera's raw file (Olympus)"),
    (b"MMOR", "a camera's raw file (Olympus)"),
    (b"IIU\x00", "a camera's raw file (Panasonic)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"PAR1", "a Parquet table"),
    (b"gimp xcf", "GIMP's XCF"),
    (b"BPG\xfb", "BPG"),
    (b"FLIF", "FLIF"),
    (b"qoif", "QOI"),
    (b"\x8aMNG\r\n\x1a\n", "MNG"),
    (b"\x8bJNG\r\n\x1a\n", "JNG"),
    (b"icns", "ICNS"),
    (b"DDS ", "DDS"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\x01\xda", "SGI"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
    (b"Y\xa6j\x95", "Sun raster"),
    (b"/* XPM */", "XPM"),
    (b"PF\n", "PFM, floating-point numbers"),
    (b"Pf\n", "PFM, floating-point numbers"),
    (b"P7\n", "PAM"),
    (b"AT&TFORM", "DjVu"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"ID3", "an MP3"),
    (b"\x00\x05\x16\x07", "an AppleDouble file, what macOS keeps beside the real one"),
)  # fmt: skip

_TEXT = bytes({7, 8, 9, 10, 12, 13, 27} | set(range(0x20, 0x7F)))
_LOOKED_AT = 4096  # bytes
_OTHERS_OF_PILLOW = ("CUR", "TGA", "PCX", "DCX", "XBM", "MSP", "BLP", "FTEX", "PIXAR", "FLI", "GBR", "PCD", "WMF")
_TEXT_FILE = "a text file"


def name_of_content(data: bytes) -> str | None:
    """What the bytes of a file are, as far as they tell: "HEIC/HEIF", "an HTML page"; None when they do not.

    Of formats that are decoded here nothing is said, but for AVIF where this build of Pillow cannot decode it.
    """
    head = data[:_LOOKED_AT]
    if not data.strip(b"\0"):
        return "only zero bytes"
    for beginning, name in _BEGINNINGS:
        if head.startswith(beginning):
            return name
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return _name_of_boxes(head)
    if head[:4] == b"RIFF":
        return {b"AVI ": "an AVI video", b"WAVE": "a WAV sound"}.get(head[8:12])
    if head[128:132] == b"DICM":
        return "DICOM"
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[:4] in (b"II*\0", b"MM\0*") and head[8:10] == b"CR":
        return "a camera's raw file (Canon)"
    return _name_by_pillow(data) or _name_of_text(data, head)


def is_foreign(data: bytes) -> bool:
    """Whether bytes that begin as a decoded format does are of another: HEIC as AVIF, raw files as TIFF."""
    name = name_of_content(data) or ""
    return name.startswith("HEIC") or "raw file" in name


def not_decoded(data: bytes) -> str:
    """The reason for bytes that no decoder takes; only what is really none is called "not an image"."""
    name = name_of_content(data)
    if name in (None, _TEXT_FILE):
        return "not an image"
    if re.match(r"an? (?!camera)|only ", name):
        return f"not an image: {name}"
    return f"{name}, which is not decoded here ({', '.join(FORMATS)} are): convert it to JPEG or PNG"


def _name_of_boxes(head: bytes) -> str:
    """Of the ISO base media file format: pictures and films differ by the brands of the first box."""
    if head[4:8] != b"ftyp":
        return "an MP4 or QuickTime video"
    length = max(int.from_bytes(head[:4], "big"), 16)
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, min(length, len(head)), 4))]
    major = brands[0].decode("latin-1").strip()
    if any(brand in _AVIF_BRANDS for brand in brands):
        return "AVIF, broken" if "AVIF" in FORMATS else "AVIF, which this build of Pillow lacks"
    if brands[0] in _RAW_BRANDS:
        return "a camera's raw file (Canon CR3)"
    if any(brand in _HEIF_BRANDS for brand in brands):
        return f"HEIC/HEIF (ftyp {major})"
    if brands[0] in (b"jp2 ", b"jpx ", b"jpm "):
        return "JPEG 2000, broken" if "JPEG2000" in FORMATS else "JPEG 2000, which this build of Pillow lacks"
    return f"an MP4 or QuickTime video (ftyp {major})" if major.isalnum() else "an MP4 or QuickTime video"


def _name_of_text(data: bytes, head: bytes) -> str | None:
    text = _as_text(head)
    if text is None:
        return None
    begins = text.lstrip("\ufeff \t\r\n").lower()
    begins = re.sub(r"^(<\?xml.*?\?>|<!--.*?-->|<!doctype svg.*?>|\s)+", "", begins, flags=re.DOTALL) or begins
    if begins.startswith("<svg"):
        return "SVG, a drawing"
    if begins.startswith(("<!doctype html", "<html", "<head", "<body", "<script")):
        return "an HTML page, such as a web site answers in place of a file that is gone"
    if begins.startswith("<"):
        return "an XML file"
    if begins.startswith(("{", "[")) and _is_json(data):
        return "a JSON file"
    if begins.startswith("data:image/"):
        return "a data: URL; decode its base64 first"
    return _TEXT_FILE


def _as_text(head: bytes) -> str | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            text = head[: len(head) // 2 * 2].decode("utf-16")
        except UnicodeDecodeError:
            return None
        return text if text.isprintable() or "\n" in text else None
    control = head.translate(None, _TEXT + bytes(range(0x80, 0x100)))
    if control:
        return None
    try:
        return head.decode("utf-8", "strict" if len(head) < _LOOKED_AT else "ignore")
    except UnicodeDecodeError:
        return None


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return len(data) > _LOOKED_AT
    return True


def _name_by_pillow(data: bytes) -> str | None:
    """The format among those that Pillow knows by their header and that are not decoded here."""
    others = [name for name in _OTHERS_OF_PILLOW if name in Image.OPEN]
    try:
        with Image.open(BytesIO(data), formats=others) as image:
            return image.format
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, ArithmeticError, struct.error):
        return None
    except (Image.DecompressionBombError, NotImplementedError):
        return None
