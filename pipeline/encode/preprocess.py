"""The bytes of an image file -> the pixels that the encoder sees.

    bytes -> decode -> EXIF orientation -> RGB -> short edge to 292/256 of the image size -> centre crop -> uint8

The last two steps are one resampling: the crop window of the resized image, traced back to the source, is the box that
is resampled. The kernel, its centres and its support are those of resizing everything and cropping afterwards, and a
1 x 5000 image never grows to 292 x 1,460,000 on the way. Pixels agree with that long way to one level in
255, but for a few in a million that differ by two: both ways round to 8 bits twice.

Colour profiles are ignored and an alpha channel is dropped (the colour beneath it shows), as torchvision's loader does.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ci2p_cache.bounds import LARGEST_IMAGE
from ci2p_cache.errors import InputError
from ci2p_cache.spec import CacheSpec
from pipeline.encode.bad_image import BadImage as BadImage
from pipeline.encode.bad_image import memory_for
from pipeline.encode.bad_image import unreadable as unreadable
from pipeline.encode.decode import Decoded, decode_scaled
from pipeline.encode.decode import decode as decode
from pipeline.running.pixel_limit import MAX_PIXELS

ResizeMode = Literal["crop", "squash"]
JpegDecode = Literal["full", "scaled"]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a square of `image_size` pixels; every field but the last changes the stored values.

    `short_edge` is what the short edge is resized to before the centre crop; `squash` resizes the whole picture to the
    square, whatever its shape, and does not look at it. `jpeg_decode` "scaled" lets the JPEG decoder leave out
    frequencies that a much smaller picture would lose anyway: see `least_side`. An image of more than `max_pixels` is
    not decoded. Raises InputError for values outside of their range.
    """

    image_size: int = 256
    short_edge: int = 292
    resize_mode: ResizeMode = "crop"
    interpolation: Literal["bicubic"] = "bicubic"
    jpeg_decode: JpegDecode = "full"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.image_size < 32 or self.image_size % 32:
            raise InputError(
                f"--image-size {self.image_size}: the encoder and the patches need a multiple of 32, such as 256"
            )
        if self.image_size > LARGEST_IMAGE:
            raise InputError(f"--image-size {self.image_size}: {LARGEST_IMAGE} is the largest that a cache holds")
        if self.short_edge < self.image_size:
            raise InputError(
                f"--short-edge {self.short_edge} is less than --image-size {self.image_size}: the crop would not fit; "
                f"give {self.image_size} or more, or leave it out"
            )
        if self.resize_mode not in get_args(ResizeMode):
            raise InputError(f"--resize-mode {self.resize_mode}: choose one of {', '.join(get_args(ResizeMode))}")
        if self.interpolation != "bicubic":
            raise InputError(f"interpolation {self.interpolation}: bicubic is the only one there is")
        if self.max_pixels < 1:
            raise InputError(
                f"--max-pixels {self.max_pixels}: give how many pixels an image may have, {MAX_PIXELS} say"
            )
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
    max_pixels: int = MAX_PIXELS,
) -> Preprocessing:
    """A checked `Preprocessing`; without `short_edge`, the paper's 292 for 256, in proportion."""
    if short_edge is None:
        short_edge = round(image_size * 292 / 256)
    return Preprocessing(image_size, short_edge, resize_mode, jpeg_decode=jpeg_decode, max_pixels=max_pixels)


def preprocessing_of(spec: CacheSpec, max_pixels: int = MAX_PIXELS) -> Preprocessing:
    """How the images of a cache were prepared."""
    return preprocessing(spec.image_size, spec.short_edge, spec.resize_mode, spec.jpeg_decode, max_pixels)


def load_pixels(data: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The pixels of an encoded image: uint8 RGB [3, S, S], C-contiguous, S the image size.

    Of an animation the first frame is taken. Raises BadImage for what cannot be decoded in full: a truncated file is
    refused, never padded with grey.
    """
    return render_plain(decode_scaled(data, preprocessing.least_side, preprocessing.max_pixels), preprocessing)


def render_plain(decoded: Decoded, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The square that every image has: as `load_pixels` says. Raises BadImage when memory runs out."""
    with memory_for(decoded.size):
        return render(decoded.image, decoded.box(source_box(decoded.size, preprocessing)), preprocessing.image_size)


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
