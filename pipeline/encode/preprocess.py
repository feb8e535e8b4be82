"""The bytes of an image file -> the pixels that the encoder sees.

    bytes -> decode -> EXIF orientation -> RGB -> short edge to 292/256 of the image size -> centre crop -> uint8

The last two steps are one resampling: the crop window of the resized image, traced back to the source, is the box that
is resampled. The kernel, its centres and its support are those of resizing everything and cropping afterwards, and a
1 x 5000 image never grows to 292 x 1,460,000 on the way. Pixels agree with that long way to one level in
255, but for a few in a million that differ by two: both ways round to 8 bits twice.

Colour profiles are ignored and an alpha channel is dropped (the colour beneath it shows), as torchvision's loader does.
"""

import math
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from traceback import clear_frames
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from ci2p_cache.errors import InputError
from ci2p_cache.spec import CacheSpec

ResizeMode = Literal["crop", "squash"]
JpegDecode = Literal["full", "scaled"]

Image.init()  # registers the formats of this build of PIL
FORMATS = tuple(
    name for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF") if name in Image.OPEN
)
MAX_PIXELS = 2**30

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


class BadImage(Exception):
    """An image that cannot become pixels. `reason` is one line and the same on every machine: no path, no address."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@contextmanager
def memory_for(size: tuple[int, int] | None = None) -> Iterator[None]:
    """Makes what memory does not suffice for the image's own failure: raises BadImage for a MemoryError within."""
    try:
        yield
    except MemoryError as error:
        clear_frames(error.__traceback__)  # whatever holds on to this error must not hold the pixels
        raise BadImage(no_memory(size)) from None


def no_memory(size: tuple[int, int] | None) -> str:
    return "not enough memory to decode " + (f"{size[0]} x {size[1]} pixels" if size else "it")


def unreadable(error: OSError) -> str:
    """The reason of a file that could not be read, without its path."""
    return f"cannot be read: {error.strerror or type(error).__name__}"


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a square of `image_size` pixels; every field changes the stored values.

    `short_edge` is what the short edge is resized to before the centre crop; `squash` resizes the whole picture to the
    square, whatever its shape, and does not look at it. `jpeg_decode` "scaled" lets the JPEG decoder leave out
    frequencies that a much smaller picture would lose anyway: see `least_side`. Raises InputError for values outside of
    their range.
    """

    image_size: int = 256
    short_edge: int = 292
    resize_mode: ResizeMode = "crop"
    interpolation: Literal["bicubic"] = "bicubic"
    jpeg_decode: JpegDecode = "full"

    def __post_init__(self) -> None:
        if self.image_size < 32 or self.image_size % 32:
            raise InputError(
                f"--image-size {self.image_size}: the encoder and the patches need a multiple of 32, such as 256"
            )
        if self.short_edge < self.image_size:
            raise InputError(
                f"--short-edge {self.short_edge} is less than --image-size {self.image_size}: the crop would not fit; "
                f"give {self.image_size} or more, or leave it out"
            )
        if self.resize_mode not in get_args(ResizeMode):
            raise InputError(f"--resize-mode {self.resize_mode}: choose one of {', '.join(get_args(ResizeMode))}")
        if self.interpolation != "bicubic":
            raise InputError(f"interpolation {self.interpolation}: bicubic is the only one there is")
        if self.jpeg_decode not in get_args(JpegDecode):
            raise InputError(f"--jpeg-decode {self.jpeg_decode}: choose one of {', '.join(get_args(JpegDecode))}")

    @property
    def least_side(self) -> int | None:
        """What no side of a decoded JPEG may fall below, in pixels; None to decode it at its own size.

        Twice the size that it is resized to: what the resampling averages over then never falls below 2 x 2 pixels.
        """
        if self.jpeg_decode == "full":
            return None
        return 2 * (self.image_size if self.resize_mode == "squash" else self.short_edge)


def preprocessing(
    image_size: int = 256,
    short_edge: int | None = None,
    resize_mode: ResizeMode = "crop",
    jpeg_decode: JpegDecode = "full",
) -> Preprocessing:
    """A checked `Preprocessing`; without `short_edge`, the paper's 292 for 256, in proportion."""
    if short_edge is None:
        short_edge = round(image_size * 292 / 256)
    return Preprocessing(image_size, short_edge, resize_mode, jpeg_decode=jpeg_decode)


def preprocessing_of(spec: CacheSpec) -> Preprocessing:
    """How the images of a cache were prepared."""
    return Preprocessing(spec.image_size, spec.short_edge, spec.resize_mode, jpeg_decode=spec.jpeg_decode)


def load_pixels(data: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The pixels of an encoded image: uint8 RGB [3, S, S], C-contiguous, S the image size.

    Of an animation the first frame is taken. Raises BadImage for what cannot be decoded in full: a truncated file is
    refused, never padded with grey.
    """
    image = decode(data, preprocessing.least_side)
    with memory_for(image.size):
        return render(image, source_box(image.size, preprocessing), preprocessing.image_size)


def decode(data: bytes, least_side: int | None = None) -> Image.Image:
    """The upright RGB image of an encoded file, of the source's own size. Raises BadImage as `load_pixels` does.

    With `least_side`, a JPEG may come at a half, a quarter or an eighth of its size, if no side falls below that: the
    decoder then transforms fewer frequencies of each 8 x 8 block.
    """
    if not data:
        raise BadImage("empty file")
    with _without_pixel_limit():
        return _decode(data, least_side)


def source_box(image_size: tuple[int, int], preprocessing: Preprocessing) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what the square shows, in pixels of an upright image of (width, height).

    The resized image measures `short_edge` by round(short_edge * long / short); the crop's offset rounds as in
    torchvision's CenterCrop.
    """
    width, height = image_size
    if preprocessing.resize_mode == "squash":
        return (0.0, 0.0, float(width), float(height))
    short = min(width, height)
    left, right = _source_interval(width, round(preprocessing.short_edge * width / short), preprocessing.image_size)
    top, bottom = _source_interval(height, round(preprocessing.short_edge * height / short), preprocessing.image_size)
    return (left, top, right, bottom)


def render(image: Image.Image, box: tuple[float, float, float, float], size: int) -> NDArray[np.uint8]:
    """The box of an RGB image as a square, resampled along the rows, then along the columns: uint8 RGB [3, S, S].

    Values are rounded to 8 bits between the two, so their order shows in a quarter of the pixels by one level. Left to
    itself, PIL chooses it by cost, differently for a box than for the whole, and not the same in every version.
    """
    left, top, right, bottom = box
    reach = 2 * max((bottom - top) / size, 1.0) + 1  # of the bicubic kernel, in rows of the source
    first, last = max(math.floor(top - reach), 0), min(math.ceil(bottom + reach), image.height)
    rows = image.resize((size, last - first), Image.Resampling.BICUBIC, box=(left, first, right, last))
    square = rows.resize((size, size), Image.Resampling.BICUBIC, box=(0, top - first, size, bottom - first))
    return np.ascontiguousarray(np.asarray(square, dtype=np.uint8).transpose(2, 0, 1))


def _source_interval(length: int, resized: int, size: int) -> tuple[float, float]:
    offset = round((resized - size) / 2)
    scale = length / resized
    return offset * scale, min((offset + size) * scale, float(length))


_limit_lock = threading.Lock()
_limit_users = 0
_limit_before: int | None = None


@contextmanager
def _without_pixel_limit() -> Iterator[None]:
    """Lift PIL's limit on pixels while any thread is in here: MAX_PIXELS is checked instead, and nothing is printed.

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


def _decode(data: bytes, least_side: int | None) -> Image.Image:
    """Upright RGB image."""
    try:
        image: Image.Image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadImage("not an image") from None  # PIL's text holds the address of the buffer
    except _DECODE_ERRORS as error:
        raise BadImage(_reason(error)) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImage(f"too large: {width} x {height} is more than {MAX_PIXELS} pixels")
    if width == 0 or height == 0:
        raise BadImage(f"no pixels: {width} x {height}")
    try:
        if least_side is not None:
            image.draft("RGB", (least_side, least_side))
        image.load()
        image = _upright(image)
        return _to_rgb(image)
    except _DECODE_ERRORS as error:
        raise BadImage(_reason(error)) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _DECODE_ERRORS:
        orientation = None  # the tags are damaged, the pixels are not: viewers show such a picture as it is stored
    transpose = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if transpose is None else image.transpose(transpose)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadImage("mode F has no defined value range")
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    # A palette's transparency is dropped like any other; left in place, PIL would warn about it.
    image.info.pop("transparency", None)
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits by scaling, 65535 -> 255, where PIL's own conversion would clip at 255."""
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise BadImage(f"mode {image.mode} with values {low} to {high} is not 16-bit grey")
    grey = (values.astype(np.uint32) * 255 + 32767) // 65535
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _reason(error: BaseException) -> str:
    text = re.sub(r"\s+", " ", str(error)).strip()
    text = re.sub(r"<[^>]*>|\b0x[0-9a-fA-F]+", "...", text)[:160] or type(error).__name__
    is_cut = isinstance(error, EOFError) or re.search(
        r"truncated|unexpected end|end of (file|stream)|read past", text.lower()
    )
    return f"truncated: {text}" if is_cut else f"broken: {text}"
