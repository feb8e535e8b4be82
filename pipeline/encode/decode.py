"""The bytes of an image file -> its upright RGB image.

What stands around the pixels (texts, profiles, previews) is not theirs to veto: a file that does not decode is tried
once more without. Colour profiles are ignored and an alpha channel is dropped (the colour beneath it shows), as
torchvision's loader does.
"""

import re
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from io import BytesIO

from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from pipeline.encode.bad_image import BadImage, no_memory, reason_of
from pipeline.encode.content import is_foreign, not_decoded
from pipeline.encode.formats import FORMATS
from pipeline.encode.grey import Scale, scale_of, to_rgb
from pipeline.encode.metadata import without_metadata
from pipeline.encode.tiff import black_is_zero, scale_of_tiff, tiff_kind
from pipeline.running.pixel_limit import MAX_PIXELS

# What PIL's decoders let out for damaged files; none of these types says more than its text does.
_DECODE_ERRORS = (
    OSError, RuntimeError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError,
    ArithmeticError, struct.error, zlib.error,
)  # fmt: skip

# EXIF orientation -> what turns the stored picture upright; 1 is upright already.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LAST_BECOMES_LEFT = (2, 3, 6, 7)  # the stored picture's last column, or row, is its upright one's first column
_LAST_BECOMES_TOP = (3, 4, 7, 8)


@dataclass(frozen=True)
class Decoded:
    """An upright RGB image, perhaps at a fraction of the picture's own `size` (width, height).

    At 1 / `scale` of it, a side that is no multiple of the scale ends within a pixel: the picture begins at `corner`
    (left, top), in pixels of the image, and measures `size` / `scale`.
    """

    image: Image.Image
    size: tuple[int, int]
    corner: tuple[float, float] = (0.0, 0.0)
    scale: int = 1

    def box(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in pixels of the image, of a box in pixels of the picture."""
        (left, top), scale = self.corner, self.scale
        return (left + box[0] / scale, top + box[1] / scale, left + box[2] / scale, top + box[3] / scale)


class _Damaged(BadImage):
    """A failure of the decoder, which may be due to what stands around the pixels."""


def decode(data: bytes, least_side: int | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The upright RGB image of an encoded file, of the source's own size. Raises BadImage for what does not decode.

    Of an animation the first frame is taken. A truncated file is refused, never padded with grey. `least_side` and
    `max_pixels` are as in `decode_scaled`.
    """
    return decode_scaled(data, least_side, max_pixels).image


def decode_scaled(data: bytes, least_side: int | None, max_pixels: int = MAX_PIXELS) -> Decoded:
    """As `decode`, at a scale that is told: a JPEG may come at a half, a quarter or an eighth of its size.

    It does if no side falls below `least_side`: the decoder then transforms fewer frequencies of each 8 x 8 block.
    A picture that says it has more than `max_pixels` is refused before it is decoded, scaled or not.
    """
    if not data:
        raise BadImage("empty file")
    with _without_pixel_limit():
        try:
            return _decode(data, least_side, max_pixels)
        except _Damaged as error:
            reason = error.reason
        file_format = _format_by_beginning(data)
        for stripped in without_metadata(data, file_format):
            try:
                return _decode(stripped, least_side, max_pixels)
            except _Damaged as error:
                reason = error.reason
        negative = black_is_zero(data) if file_format == "TIFF" else None
        if negative is not None:
            with suppress(_Damaged):
                decoded = _decode(negative, least_side, max_pixels)
                return replace(decoded, image=ImageOps.invert(decoded.image))
    raise BadImage(reason)


_limit_lock = threading.Lock()
_limit_users = 0
_limit_before: int | None = None


@contextmanager
def _without_pixel_limit() -> Iterator[None]:
    """Lift PIL's limit on pixels while any thread is in here: `max_pixels` is checked instead, and nothing is printed.

    The limit belongs to the whole process and some decoders ask for it late, so it is counted in and out.
    """
    global _limit_users, _limit_before
    with _limit_lock:
        if _limit_users == 0:
            _limit_before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _limit_users += 1
    try:
        yield
    finally:
        with _limit_lock:
            _limit_users -= 1
            if _limit_users == 0:
                Image.MAX_IMAGE_PIXELS = _limit_before


def _decode(data: bytes, least_side: int | None, max_pixels: int) -> Decoded:
    image = _open(data)
    width, height = image.size
    if width * height > max_pixels:
        raise BadImage(f"too large: {width} x {height} is more than {max_pixels} pixels (--max-pixels)")
    if width == 0 or height == 0:
        raise BadImage(f"no pixels: {width} x {height}")
    try:
        return _load(image, data, least_side)
    except _DECODE_ERRORS as error:
        reason = reason_of(error, (width, height))
    except MemoryError:
        reason = no_memory((width, height))
    # Out here nothing holds on to the pixels any more.
    raise BadImage(reason) if reason == no_memory((width, height)) else _Damaged(reason)


def _load(image: Image.Image, data: bytes, least_side: int | None) -> Decoded:
    stored = image.size
    drafted = None if least_side is None else image.draft("RGB", (least_side, least_side))
    numbers = _scale_of_numbers(image, data)
    image.load()
    orientation = _orientation(image)
    scale = 1 if drafted is None else round(stored[0] / drafted[1][2])
    if scale > 1:
        lost = [size - length / scale for size, length in zip(image.size, stored, strict=True)]
        lost, stored = (lost[::-1], stored[::-1]) if orientation >= 5 else (lost, stored)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    image = to_rgb(image, numbers)
    if scale == 1:
        return Decoded(image, image.size)
    left = lost[0] if orientation in _LAST_BECOMES_LEFT else 0.0
    top = lost[1] if orientation in _LAST_BECOMES_TOP else 0.0
    return Decoded(image, stored, (left, top), scale)


def _scale_of_numbers(image: Image.Image, data: bytes) -> Scale | None:
    return scale_of_tiff(image) if isinstance(image, TiffImagePlugin.TiffImageFile) else scale_of(image, data)


def _orientation(image: Image.Image) -> int:
    """1 to 8, as EXIF counts."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _DECODE_ERRORS:
        return 1  # the tags are damaged, the pixels are not: viewers show such a picture as it is stored
    return orientation if isinstance(orientation, int) and orientation in _UPRIGHT else 1


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        pass  # PIL's text holds the address of the buffer, and not why
    except _DECODE_ERRORS as error:
        raise _Damaged(reason_of(error)) from error
    except MemoryError:
        raise BadImage(no_memory(None)) from None
    raise _Damaged(_why_not_opened(data))


def _why_not_opened(data: bytes) -> str:
    """The reason that the format's own decoder gives, or what the bytes are where there is no such decoder."""
    file_format = _format_by_beginning(data)
    if not file_format or is_foreign(data):
        return not_decoded(data)
    kind = tiff_kind(data) if file_format == "TIFF" else None
    factory = Image.OPEN[file_format][0]
    try:
        factory(BytesIO(data), "")
    except _DECODE_ERRORS as error:
        text = str(error)
        if kind and isinstance(error, SyntaxError | KeyError | IndexError):  # one that PIL has no mode for
            return f"{kind}, which is not decoded here: save it as 8 or 16 bits"
        if file_format == "JPEG" and (found := re.search(r"cannot handle (\d+)-(bit|layer)", text)):
            what = f"{found[1]} bits a sample" if found[2] == "bit" else f"{found[1]} samples a pixel"
            return f"JPEG of {what}, which is not decoded here: save it with 8 bits, as grey or colour"
        return reason_of(error)
    return f"broken {file_format}"


def _format_by_beginning(data: bytes) -> str:
    """The format among FORMATS whose signature the bytes begin with, or ""."""
    for name in FORMATS:
        accept = Image.OPEN[name][1]
        with suppress(IndexError, struct.error):  # too few bytes for one of that format
            if accept is not None and accept(data[:16]) is True:
                return name
    return ""
