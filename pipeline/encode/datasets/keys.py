"""Names of items: unique within a split, the same on every machine."""

import posixpath
from collections import Counter
from collections.abc import Sequence

from ci2p_cache.packed_strings import PackedStrings as PackedStrings


def item_keys(file_names: Sequence[str]) -> list[str]:
    """A key for each file: its relative posix name without extension.

    Where that gives two files one key (a.jpg beside a.png) all of them keep the extension. `file_names` must be unique.
    """
    names = [name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name in file_names]
    keys = [posixpath.splitext(name)[0] for name in names]
    while len(set(keys)) < len(keys):  # a.jpg, a.png and a.jpg.gif take two turns
        count = Counter(keys)
        repaired = [name if count[key] > 1 else key for name, key in zip(names, keys, strict=True)]
        assert repaired != keys, "two items have the same file name"
        keys = repaired
    return keys
