"""Names as one line that any stream and any JSON takes."""

import re

# What would break a line, move the cursor of a terminal or turn the direction of writing; and bytes that are not UTF-8,
# which Python holds as lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(name: str) -> str:
    """A name as one line of UTF-8, for keys, classes and messages: "caf\\xe9" for Latin-1, "a\\nb" for two lines."""
    return _UNPRINTABLE.sub(_escaped, name)


def counted(number: int, noun: str) -> str:
    """ "1 image", "2 images", "3 classes", "4,096 shards"."""
    return f"1 {noun}" if number == 1 else f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    is_byte = 0xDC80 <= code <= 0xDCFF
    return f"\\x{code - 0xDC00:02x}" if is_byte else found[0].encode("unicode_escape").decode("ascii")
