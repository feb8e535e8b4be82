"""Image files without what decoding does not need: text, profiles, previews, of which damage must not veto the pixels.

Each function takes the bytes of a file of its format and gives back the same picture's with less around it, byte for
byte the same where pixels are concerned. What cannot be followed is left in, for the decoder to judge.
"""

import struct
import zlib
from collections.abc import Iterator

_NOTHING, _EXIF, _EXIF_AND_TEXTS = 0, 1, 2  # what is kept of that which may tell the orientation

_PNG_BEGINS = b"\x89PNG\r\n\x1a\n"
_PNG_TURNS = (
    b"Raw profile type exif\0",
    b"Raw profile type APP1\0",
    b"XML:com.adobe.xmp\0",
)  # may hold the orientation
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PNG_FRAMES = (b"acTL", b"fcTL", b"fdAT")

# Of a TIFF: what says where the pixels are and what they mean. All else describes the picture.
_TIFF_NEEDED = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325}
    | {332, 333, 334, 336, 338, 339, 340, 341, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532}
)
_ORIENTATION = 274


def without_metadata(data: bytes, file_format: str) -> Iterator[bytes]:
    """Yields the file with less and less around its pixels: what may tell its orientation goes last."""
    strip = {"PNG": _png, "JPEG": _jpeg, "MPO": _jpeg, "WEBP": _webp, "GIF": _gif, "TIFF": _tiff}.get(file_format)
    if strip is None:
        return
    before = data
    for kept in (_EXIF_AND_TEXTS, _EXIF, _NOTHING):
        stripped = strip(data, kept)
        if stripped != before:
            yield stripped
        before = stripped


def _png(data: bytes, kept: int) -> bytes:
    """Critical chunks and tRNS; then sound ones that may tell the orientation, and the frames of an animation."""
    parts, at = [_PNG_BEGINS], len(_PNG_BEGINS)
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name, end = data[at + 4 : at + 8], at + 12 + length
        critical = not name[0] & 0x20
        if end > len(data) and name.isalpha() and not critical:
            return b"".join(parts)  # cut behind the pixels, or before them all
        if not name.isalpha() or end > len(data):
            break
        if critical or name == b"tRNS" or (_is_kept(data, name, at, kept) and _is_sound(data, at, end)):
            parts.append(data[at:end])
        at = end
    return b"".join([*parts, data[at:]])


def _is_kept(data: bytes, name: bytes, at: int, kept: int) -> bool:
    if kept == _EXIF_AND_TEXTS and name in _PNG_TEXTS:
        return data.startswith(_PNG_TURNS, at + 8)
    return name == b"eXIf" if kept == _EXIF else kept == _EXIF_AND_TEXTS and name in (b"eXIf", *_PNG_FRAMES)


def _is_sound(data: bytes, at: int, end: int) -> bool:
    return zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")


def _jpeg(data: bytes, kept: int) -> bytes:
    """Without comments and application segments but JFIF's and Adobe's, which say what the colours are."""
    parts, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + 2 + length
        if marker == 0xDA or marker <= 0x01 or 0xD0 <= marker <= 0xD9 or length < 2 or end > len(data):
            break
        segment = data[at:end]
        is_metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not is_metadata or _is_colour(segment) or (kept and _is_exif(segment)):
            parts.append(segment)
        at = end
    return b"".join([*parts, data[at:]])


def _is_colour(segment: bytes) -> bool:
    """Shorter ones are overlooked by libjpeg, and stumbled over by Pillow."""
    jfif = segment[1] == 0xE0 and segment[4:9] == b"JFIF\0" and len(segment) >= 18
    return jfif or (segment[1] == 0xEE and segment[4:9] == b"Adobe" and len(segment) >= 16)


def _is_exif(segment: bytes) -> bool:
    return segment[1] == 0xE1 and segment[4:10] == b"Exif\0\0"


def _webp(data: bytes, kept: int) -> bytes:
    """The chunks of the picture, and perhaps a whole one of EXIF; the flags of what is gone cleared."""
    chunks, at, flags_cleared = [], 12, 0x20 | 0x04 | 0x08
    while at + 8 <= len(data):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + length
        if name in (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"):
            chunks.append(bytearray(data[at : end + length % 2]))
        elif name == b"EXIF" and kept and end <= len(data):
            chunks.append(bytearray(data[at:end] + b"\0" * (length % 2)))
            flags_cleared &= ~0x08
        at = end + length % 2
    for chunk in chunks:
        if chunk[:4] == b"VP8X" and len(chunk) > 8:
            chunk[8] &= ~flags_cleared & 0xFF
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _gif(data: bytes, kept: int) -> bytes:
    """Without the extensions before the first image, but for a graphic control that is sound."""
    at = 13 + (3 << ((data[10] & 7) + 1) if len(data) > 10 and data[10] & 0x80 else 0)
    parts = [data[:at]]
    while at + 2 < len(data) and data[at] == 0x21:
        end = at + 2
        while end < len(data) and data[end]:
            end += 1 + data[end]
        end += 1
        if end > len(data):
            break
        if data[at + 1] == 0xF9 and data[at + 2] == 4 and end == at + 8:
            parts.append(data[at:end])
        at = end
    return b"".join([*parts, data[at:]])


def _tiff(data: bytes, kept: int) -> bytes:
    """With a new first directory at the end, of the needed tags alone. BigTIFF is left as it is."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 8:
        return data
    (at,) = struct.unpack_from(order + "I", data, 4)
    if at + 2 > len(data):
        return data
    (count,) = struct.unpack_from(order + "H", data, at)
    entries = [data[at + 2 + 12 * number : at + 14 + 12 * number] for number in range(count)]
    wanted = _TIFF_NEEDED if kept else _TIFF_NEEDED - {_ORIENTATION}
    needed = [entry for entry in entries if len(entry) == 12 and struct.unpack(order + "H", entry[:2])[0] in wanted]
    if len(needed) == count:
        return data
    padding = b"\0" * (len(data) % 2)
    directory = struct.pack(order + "H", len(needed)) + b"".join(needed) + bytes(4)
    return b"".join([data[:4], struct.pack(order + "I", len(data) + len(padding)), data[8:], padding, directory])
