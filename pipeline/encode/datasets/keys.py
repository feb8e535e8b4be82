"""Names of items: unique within a split, the same on every machine."""

import posixpath
import re
from collections import Counter
from collections.abc import Sequence

from ci2p_cache.errors import InputError
from ci2p_cache.packed_strings import PackedStrings as PackedStrings

# What would break a line, move the cursor of a terminal or turn the direction of writing; and bytes that are not UTF-8,
# which Python holds as lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(name: str) -> str:
    """A name as one line of UTF-8, for keys, classes and messages: "caf\\xe9" for Latin-1, "a\\nb" for two lines."""
    return _UNPRINTABLE.sub(_escaped, name)


def item_keys(file_names: Sequence[str]) -> list[str]:
    """A key for each file: its relative posix name without extension, printable.

    Where that gives two files one key (a.jpg beside a.png) all of them keep the extension. Raises InputError, naming
    them, when two files have the same name, as a tar may have it, or names that are the same once they are printable.
    """
    names = [printable(name) for name in file_names]
    if len(set(names)) < len(names):
        name, count = Counter(names).most_common(1)[0]
        raise InputError(f"--data-dir: {count} images have the name {name}; rename or remove all but one")
    keys = [posixpath.splitext(name)[0] for name in names]
    while len(set(keys)) < len(keys):  # a.jpg, a.png and a.jpg.gif take two turns
        count_of = Counter(keys)
        keys = [name if count_of[key] > 1 else key for name, key in zip(names, keys, strict=True)]
    return keys


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    is_byte = 0xDC80 <= code <= 0xDCFF
    return f"\\x{code - 0xDC00:02x}" if is_byte else found[0].encode("unicode_escape").decode("ascii")
