"""Caches and runs of ci2p that lie among the images: known by what is in them, finished or not, whatever their name."""

import os
from itertools import product

from pipeline.encode.formats import is_image_name

_SPLIT_FOLDERS = ("", "train", "val", "test")
_MARKS = {"spec.json": (b'"format_version"', b'"weights_sha256"'), "config.json": (b'"recipe"', b'"fingerprint"')}
_MAX_DEPTH = 3  # of folders that hold nothing else: caches/, demo/caches/
_READ_BYTES = 1 << 20


def is_own_output(folder: str) -> bool:
    """Whether a folder is a cache, one split of it, a run, or holds such folders and no other.

    Costs eight failed look-ups and a glance at the first entries where it is not.
    """
    return _is_own(folder, 1)


def _is_own(folder: str, depth: int) -> bool:
    if any(_has_mark(f"{folder}/{split}", file) for split, file in product(_SPLIT_FOLDERS, _MARKS)):
        return True
    found = False
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir(follow_symlinks=False):
                    if is_image_name(entry.name) or entry.is_symlink():
                        return False
                    continue
                if depth == _MAX_DEPTH or not _is_own(entry.path, depth + 1):
                    return False
                found = True
    except OSError:
        return False  # whoever lists it says why it cannot be listed
    return found


def _has_mark(folder: str, file: str) -> bool:
    path = f"{folder}/{file}"
    if not os.path.isfile(path):  # noqa: PTH113  (asked of every class folder)
        return False
    try:
        with open(path, "rb") as opened:  # noqa: PTH123
            head = opened.read(_READ_BYTES)
    except OSError:
        return False
    return all(mark in head for mark in _MARKS[file])
