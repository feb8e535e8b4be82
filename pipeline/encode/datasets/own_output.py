"""Caches and runs of ci2p that lie among the images: known by what is in them, finished or not, whatever their name."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ci2p_cache.remote_files import read_range
from pipeline.encode.datasets.remote_folder import RemoteEntry, scan
from pipeline.encode.formats import is_image_name

_MARKS = {"spec.json": (b'"format_version"', b'"weights_sha256"'), "config.json": (b'"recipe"', b'"fingerprint"')}
_ITEMS = ("items/classes.json", "items/keys.npy")  # of a split: written before its spec
_SPLIT_FOLDERS = ("train", "val", "test")
_MAX_DEPTH = 3  # of folders that hold nothing else: caches/, demo/caches/
_MAX_ENTRIES = 100  # of a cache or a run beside its split folders; a folder of more, images among them, is neither
_READ_BYTES = 1 << 20


def is_own_output(folder: str) -> bool:
    """Whether a folder is a cache, one split of it, a run, or holds such folders and no other.

    Of a folder of images a glance at its first entries is all that is needed.
    """
    return _is_own(folder, 1)


def _is_own(folder: str, depth: int) -> bool:
    try:
        with _scan(folder) as entries:
            first = list(itertools.islice(entries, _MAX_ENTRIES))
            has_images = any(is_image_name(entry.name) for entry in first)
            if has_images and len(first) == _MAX_ENTRIES:
                return False
            listed = [*first, *entries]
        names = {entry.name for entry in listed}
        if any(_has_mark(folder, file) for file in names & _MARKS.keys()) or ("items" in names and _has_items(folder)):
            return True
        for split in names.intersection(_SPLIT_FOLDERS):
            inner = f"{folder}/{split}"
            if any(_has_mark(inner, file) for file in _MARKS) or _has_items(inner):
                return True
        below = [
            entry
            for entry in listed
            if not entry.name.startswith(".") and (entry.is_dir(follow_symlinks=False) or entry.is_symlink())
        ]
        if has_images or not below or depth == _MAX_DEPTH:
            return False
        return all(not entry.is_symlink() and _is_own(entry.path, depth + 1) for entry in below)
    except OSError:
        return False  # whoever lists it says why it cannot be listed


@contextmanager
def _scan(folder: str) -> "Iterator[Iterator[os.DirEntry[str] | RemoteEntry]]":
    if "://" in folder:
        yield iter(scan(folder))
        return
    with os.scandir(folder) as entries:
        yield entries


def _has_items(folder: str) -> bool:
    return all(_is_file(folder, file) for file in _ITEMS)


def _is_file(folder: str, file: str) -> bool:
    inner, _, name = f"{folder}/{file}".rpartition("/")
    if "://" in folder:
        return any(entry.name == name and entry.is_file() for entry in scan(inner))
    return os.path.isfile(f"{inner}/{name}")  # noqa: PTH113  (asked of many folders; and a fifo is not to be opened)


def _has_mark(folder: str, file: str) -> bool:
    path = f"{folder}/{file}"
    if not _is_file(folder, file):
        return False
    if "://" in folder:
        head = read_range(path, 0, _READ_BYTES)
    else:
        with open(path, "rb") as opened:  # noqa: PTH123
            head = opened.read(_READ_BYTES)
    return all(mark in head for mark in _MARKS[file])
