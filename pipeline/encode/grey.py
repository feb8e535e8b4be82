"""Stored numbers -> 8 bits: what white is, by the file's bits per sample, photometric and sample format.

    grey of up to 16 bits      0 to 2**bits - 1 become 0 to 255; turned over where zero is white
    signed, 32 bits, floats    have no defined white: refused, with the range that was found

Pillow does this itself for up to 8 bits, and for 16-bit colour. It leaves 9 to 16 bits of grey as they are stored,
whatever white is.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.encode.bad_image import BadImage


@dataclass(frozen=True)
class Scale:
    """How the numbers of a decoded image become 0 to 255: 0 to `white` do, or the other way round.

    Without a `white` they do not, and `kind` says what they are; `swapped` ones came in the wrong byte order.
    """

    white: int | None = None
    inverted: bool = False
    kind: str = ""
    swapped: bool = False


def scale_of(image: Image.Image, data: bytes) -> Scale | None:
    """The scale of an opened file's numbers; None where Pillow's own is right. Of a TIFF see `tiff.scale_of_tiff`."""
    if image.format == "JPEG2000":
        bits = _jpeg2000_bits(data)
        if image.mode in ("L", "LA", "RGB", "RGBA") and bits < 8:
            return Scale((2**bits - 1) << (8 - bits))  # Pillow shifts to the left
    if image.mode == "F":
        return Scale(kind="32-bit floating-point numbers")
    return Scale(65535) if image.mode.startswith("I") else None  # PNG, and PNM of whatever maxval: Pillow scales to it


def to_rgb(image: Image.Image, scale: Scale | None) -> Image.Image:
    """RGB of an upright image. Raises BadImage for numbers that have no defined white."""
    if scale is not None and scale.white is None:
        raise BadImage(_without_white(image, scale))
    if scale is not None and image.mode.startswith("I"):
        return _grey(np.asarray(image), scale).convert("RGB")
    image.info.pop("transparency", None)  # of a palette: dropped like any other; left in, Pillow would warn about it
    if image.mode == "La":
        image = image.convert("LA")
    image = image if image.mode == "RGB" else image.convert("RGB")
    return image if scale is None else image.point(_levels(scale).tolist() * 3)


def _jpeg2000_bits(data: bytes) -> int:
    """Bits per sample of the first component, from the codestream's SIZ segment; 8 where there is none."""
    at = data.find(b"\xff\x4f\xff\x51")
    return (data[at + 42] & 0x7F) + 1 if 0 <= at < len(data) - 42 else 8


def _levels(scale: Scale) -> NDArray[np.uint8]:
    """[256 or 65536] uint8: what every number becomes."""
    assert scale.white is not None
    numbers = np.minimum(np.arange(256 if scale.white < 256 else 65536, dtype=np.uint32), scale.white)
    levels = ((numbers * 255 + scale.white // 2) // scale.white).astype(np.uint8)
    return levels if not scale.inverted else np.subtract(np.uint8(255), levels, dtype=np.uint8)


def _grey(numbers: NDArray[Any], scale: Scale) -> Image.Image:
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high > 65535:
        raise BadImage(f"grey of {low} to {high} where 0 to {scale.white} is defined: save it as 8 or 16 bits")
    return Image.fromarray(_levels(scale)[numbers])


def _without_white(image: Image.Image, scale: Scale) -> str:
    numbers = np.asarray(image)
    if scale.swapped:
        numbers = (numbers.astype(np.int16) if "16-bit" in scale.kind else numbers).byteswap()
    if scale.kind.startswith("32-bit integers"):
        numbers = numbers.view(np.uint32)
    elif scale.kind == "signed 8-bit integers":
        numbers = numbers.view(np.int8)
    finite = numbers[np.isfinite(numbers)]
    found = f" from {_said(finite.min())} to {_said(finite.max())}" if finite.size else ""
    return f"{scale.kind}{found} have no defined white: save it as 8 or 16 bits"


def _said(number: np.generic) -> str:
    return f"{number:g}" if isinstance(number, np.floating) else str(number)
