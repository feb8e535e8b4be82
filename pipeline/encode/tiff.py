"""TIFF: what its tags say of the numbers it holds, where Pillow does not look or cannot go on."""

import struct
from io import BytesIO

from PIL import TiffImagePlugin

from pipeline.encode.bad_image import BadImage
from pipeline.encode.grey import Scale

Tags = TiffImagePlugin.ImageFileDirectory_v2
_WIDTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANES, _COLOUR_MAP, _FORMAT = (
    256,
    258,
    259,
    262,
    277,
    284,
    320,
    339,
)
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _CFA, _LINEAR_RAW = 0, 1, 32803, 34892
_SIGNED, _FLOAT = 2, 3
_PHOTOMETRICS = {0: "grey, white is zero", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "L*a*b*"}
_KINDS = {1: "", _SIGNED: "signed ", _FLOAT: "floating-point ", 4: "untyped ", 5: "complex ", 6: "complex "}
_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error)


def scale_of_tiff(image: TiffImagePlugin.TiffImageFile) -> Scale | None:
    """The scale of an opened TIFF's numbers; None where Pillow's own is right. Raises BadImage for what it misreads."""
    tags = image.tag_v2
    bits, form = _tag(tags, _BITS, 1), _tag(tags, _FORMAT, 1)
    is_raw = _tag(tags, _COMPRESSION, 1) == 1
    is_apart = _tag(tags, _PLANES, 1) == 2 and len(image.getbands()) > 1
    if is_apart and (image.mode == "LAB" or (is_raw and (bits > 8 or image.mode not in ("RGB", "RGBA", "CMYK")))):
        raise BadImage(f"{_name(tags)}: save it with the samples of a pixel together")  # Pillow reads 8 of 16 bits
    if image.mode == "P":
        _widen_colour_map(image)
    # Of numbers for which it has no name Pillow forgets that libtiff has put their bytes in order already.
    swapped = not is_raw and tags.prefix == b"MM"
    if image.mode == "F":
        return Scale(kind=f"{bits}-bit floating-point numbers", swapped=swapped)
    if form == _SIGNED:
        return Scale(kind=f"signed {bits}-bit integers", swapped=swapped and bits > 8)
    if image.mode == "I":
        return Scale(kind=f"{bits}-bit integers", swapped=swapped)
    if image.mode.startswith("I;16"):
        return Scale(2**bits - 1, inverted=_tag(tags, _PHOTOMETRIC, _BLACK_IS_ZERO) == _WHITE_IS_ZERO)
    return None


def black_is_zero(data: bytes) -> bytes | None:
    """A TIFF of 9 to 16 bits of grey of which zero is white, told to be one of which zero is black; None for others.

    Pillow opens the one kind in either byte order, and of the other kind little-endian 16 bits alone.
    """
    tags = _tags(data)
    if tags is None or _tag(tags, _PHOTOMETRIC, _BLACK_IS_ZERO) != _WHITE_IS_ZERO or not 8 < _tag(tags, _BITS, 1) <= 16:
        return None
    order = "<" if tags.prefix == b"II" else ">"
    entry = struct.pack(order + "HHIHH", _PHOTOMETRIC, 3, 1, _WHITE_IS_ZERO, 0)
    (directory,) = struct.unpack_from(order + "I", data, 4)
    at = data.find(entry, directory)
    if at < 0:
        return None
    return data[:at] + struct.pack(order + "HHIHH", _PHOTOMETRIC, 3, 1, _BLACK_IS_ZERO, 0) + data[at + len(entry) :]


def tiff_kind(data: bytes) -> str | None:
    """What a TIFF holds, such as "TIFF of 10-bit grey"; None when its tags cannot be read."""
    tags = _tags(data)
    try:
        return None if tags is None or _WIDTH not in tags else _name(tags)
    except _DAMAGED:
        return None


def _tags(data: bytes) -> Tags | None:
    """Of the first directory; None when they cannot be read."""
    source = BytesIO(data)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(source.read(8))
        source.seek(tags.next)
        tags.load(source)
        return tags
    except _DAMAGED:
        return None


def _name(tags: Tags) -> str:
    bits, photometric = _tag(tags, _BITS, 1), _tag(tags, _PHOTOMETRIC, 0)
    compression = _tag(tags, _COMPRESSION, 1)
    if photometric in (_CFA, _LINEAR_RAW):
        return "a camera's raw file"
    further = _tag(tags, _SAMPLES, 1) - {2: 3, 5: 4, 6: 3, 8: 3}.get(photometric, 1)
    return (
        f"TIFF of {_KINDS.get(_tag(tags, _FORMAT, 1), '')}{bits}-bit "
        f"{_PHOTOMETRICS.get(photometric, f'photometric {photometric}')}"
        f"{f' and {further} more a pixel' if further > 0 else ''}"
        f"{' in separate planes' if _tag(tags, _PLANES, 1) == 2 else ''}"
        f"{'' if compression in TiffImagePlugin.COMPRESSION_INFO else f', compressed by method {compression}'}"
    )


def _tag(tags: Tags, tag: int, default: int) -> int:
    """The first value of a tag."""
    value = tags.get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _widen_colour_map(image: TiffImagePlugin.TiffImageFile) -> None:
    """A colour map of 8 bits where the standard wants 16, as old writers left it, is taken for what it is.

    All its colours would be black; libtiff's own tools make the same exception.
    """
    colours = image.tag_v2.get(_COLOUR_MAP, ())
    if colours and 0 < max(colours) < 256:
        image.load()
        third = len(colours) // 3
        image.putpalette([colours[plane * third + entry] for entry in range(third) for plane in range(3)], "RGB")
