"""What `ci2p predict` is given: files, folders, patterns, URLs and standard input -> images in order, each once.

An explicit file that is missing or no image stays among the images, so that it fails by its name when it is read.
"""

import errno
import glob
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.errors import InputError
from ci2p_cache.left_out import LeftOut, LeftOutFiles
from ci2p_cache.printable import printable
from ci2p_cache.regular_file import read_regular
from ci2p_cache.remote_files import MOST_BYTES, describe, filesystem_of, read_file
from ci2p_cache.tries import tried
from pipeline.encode.datasets.listing import NO_IMAGES, UNREAD, image_files
from pipeline.encode.datasets.path_patterns import expand_braces, has_pattern
from pipeline.encode.datasets.split import UNKNOWN_STAMP, Stamp
from pipeline.encode.formats import is_image_name, looks_like_image

STANDARD_INPUT = "-"


@dataclass(frozen=True, eq=False)
class InputImages:
    """An ImageSplit of images without labels; a key is the path or URL as it was given, or "-"."""

    keys: tuple[str, ...]  # in the order of the inputs, those of a folder sorted
    standard_input: bytes = b""
    num_repeated: int = 0  # inputs that are another one's file
    left_out: tuple[LeftOut, ...] = ()  # of folders and patterns
    classes: tuple[str, ...] = ()

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.zeros(len(self.keys), dtype=np.int64)

    def read_bytes(self, index: int) -> bytes:
        key = self.keys[index]
        if key == STANDARD_INPUT:
            return self.standard_input
        return _read_url(key) if "://" in key else read_regular(key)

    def stamp(self, index: int) -> Stamp:
        return UNKNOWN_STAMP


def find_inputs(inputs: Sequence[str]) -> InputImages:
    """The images that the inputs mean. Raises InputError for a folder or a pattern in which there is none."""
    keys: dict[str, str] = {}  # what tells files apart -> the key
    left_out = LeftOutFiles()
    num_found = 0
    for given in inputs:
        for key in _images_of(given, left_out):
            keys.setdefault(_identity(key), key)
            num_found += 1
    standard_input = _read_standard_input() if STANDARD_INPUT in keys else b""
    return InputImages(tuple(keys.values()), standard_input, num_found - len(keys), left_out.listed())


def _images_of(given: str, left_out: LeftOutFiles) -> list[str]:
    if given == STANDARD_INPUT:
        return [given]
    if not given or "\0" in given:
        raise InputError(f"INPUT {given!r}: that is no name; give a file, a folder, a pattern, a URL or -")
    if given.lower().startswith(("file://", "local://")):
        given = given.partition("://")[2]
    if "://" in given:
        return _of_url(given, left_out)
    path = given if os.path.lexists(given) else os.path.expanduser(given)  # noqa: PTH111  (Path's may raise)
    if os.path.lexists(path) or not has_pattern(path):
        if not os.path.isdir(path):  # noqa: PTH112
            return [path]
        found = _of_folder(path, left_out)
        if not found:
            raise InputError(
                f"INPUT {printable(given)}: there is no image file in it, at any depth; give another folder"
            )
        return found
    found = []
    for pattern in expand_braces(path):
        for name in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207  (Path's takes no absolute pattern)
            if not os.path.isdir(name):  # noqa: PTH112
                found += _by_name([name], left_out)
            elif "**" not in pattern:
                found += _of_folder(name, left_out)
    if not found:
        raise InputError(f"INPUT {printable(given)}: no image is found by that pattern; mend it")
    return found


def _of_folder(folder: str, left_out: LeftOutFiles) -> list[str]:
    try:
        names = image_files(Path(folder), ".", left_out, shown=f"{printable(folder)}/")
    except InputError as error:
        raise InputError(str(error).replace("--data-dir: ", "INPUT: ").replace("--data-dir", "INPUT")) from error
    return sorted(os.path.join(folder, name.removeprefix("./")) for name in names)  # noqa: PTH118  (as it was given)


def _found(filesystem: Any, path: str) -> list[str] | None:
    if has_pattern(path) and not filesystem.exists(path):
        return [name for each in expand_braces(path) for name in filesystem.glob(each)]
    return list(filesystem.find(path)) if filesystem.isdir(path) else None


def _of_url(url: str, left_out: LeftOutFiles) -> list[str]:
    """A web address is one image; elsewhere a folder is looked through, and *, ? and [] are a pattern."""
    if url.lower().startswith(("http://", "https://")):
        return [url]
    try:
        filesystem, path = filesystem_of(url)
        found = tried(url, lambda _: _found(filesystem, path))
        if found is None:
            return [url]
        names = _by_name([filesystem.unstrip_protocol(name) for name in sorted(found)], left_out)
    except (OSError, ImportError, ValueError) as error:
        complaint = error
    else:
        if names:
            return names
        raise InputError(f"INPUT {printable(url)}: there is no image file; mend it")
    if not has_pattern(url):
        return [url]  # it fails by its name when it is read, and the others do not
    raise InputError(f"INPUT {printable(url)}: cannot be looked up: {describe(complaint)}; mend it") from complaint


def _by_name(names: Sequence[str], left_out: LeftOutFiles) -> list[str]:
    """Those that are images by their name; nobody named the others, so they are counted."""
    for name in names:
        if not is_image_name(name):
            is_picture = looks_like_image(name)
            left_out.add(UNREAD if is_picture else NO_IMAGES, printable(name), pictures=is_picture)
    return [name for name in names if is_image_name(name)]


def _identity(key: str) -> str:
    """The same for all ways to write a file's path. Two names in one folder are two images, links and copies too."""
    if key == STANDARD_INPUT or "://" in key:
        return key
    folder, name = os.path.split(os.path.abspath(key))  # noqa: PTH100
    return os.path.join(os.path.realpath(folder), name)  # noqa: PTH118


def _read_standard_input() -> bytes:
    try:
        return sys.stdin.buffer.read(MOST_BYTES)
    except (AttributeError, OSError) as error:  # it is closed
        raise InputError("INPUT -: standard input cannot be read; send an image to it, as in `< cat.jpg`") from error


def _read_url(url: str) -> bytes:
    """Raises OSError, whatever the reason."""
    try:
        return read_file(url)
    except (OSError, ImportError, ValueError) as error:
        raise OSError(errno.EIO, describe(error)) from error
