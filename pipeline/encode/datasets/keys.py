"""Names of items: unique within a split, the same on every machine."""

import posixpath
from collections import Counter
from collections.abc import Sequence

from ci2p_cache.errors import InputError
from ci2p_cache.printable import printable


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
