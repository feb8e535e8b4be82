"""What a model may be asked about: paths, URLs, pictures in memory, folders and lists of them -> bytes, one by one."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ci2p_cache.errors import InputError
from ci2p_cache.printable import printable
from ci2p_cache.regular_file import read_regular
from ci2p_cache.remote import fetch
from ci2p_cache.remote_files import cannot_open
from pipeline.encode.formats import is_image_name
from pipeline.encode.image_values import IMAGE_TYPES, image_bytes, is_image_value


@dataclass(frozen=True)
class Sources:
    """Images in order; `kind` says in what shape the answer is given."""

    names: list[str]
    reads: list[Callable[[], bytes]]  # each raises InputError or WorkError
    kind: str  # "one", "list" or "folder"


def find_sources(images: Any) -> Sources:
    """The images that one argument means. Raises InputError for a type that is none and a folder without images."""
    if isinstance(images, str | os.PathLike):
        path = os.fspath(images)
        if isinstance(path, str) and path and "://" not in path and os.path.isdir(path):  # noqa: PTH112  (any string)
            return _folder(Path(path))
        return _one(images, _shown(path))
    if isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4:
        images = list(images)
    if is_image_value(images):
        return _one(images, "the image")
    if isinstance(images, Sequence):
        each = [_one(image, f"images[{number}]") for number, image in enumerate(images)]
        return Sources([one.names[0] for one in each], [one.reads[0] for one in each], "list")
    raise InputError(
        f"images={images!r:.80}: it is of type {type(images).__name__}; give a path, a URL, a folder, {IMAGE_TYPES}, "
        "or a list of them"
    )


def _one(image: Any, name: str) -> Sources:
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        if isinstance(path, str) and path and "\0" not in path:
            return Sources([path], [partial(_download if "://" in path else _read, path)], "one")
    elif is_image_value(image):
        return Sources([name], [partial(image_bytes, image, name)], "one")
    raise InputError(f"{name}: {image!r:.80} is of type {type(image).__name__}; give a path, a URL, {IMAGE_TYPES}")


def _folder(folder: Path) -> Sources:
    files = sorted(path for path in folder.rglob("*") if is_image_name(path.name) and path.is_file())
    if not files:
        raise InputError(f"{folder}: there is no image file in it, at any depth; give a folder of images")
    names = [path.relative_to(folder).as_posix() for path in files]
    return Sources(names, [partial(_read, str(path)) for path in files], "folder")


def _read(path: str) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give the path of an image file") from error


def _download(url: str) -> bytes:
    try:
        return bytes(fetch(url))
    except (ImportError, ValueError) as error:  # fsspec finds s3:// and others through packages of their own
        raise cannot_open("", printable(url), error) from error


def _shown(path: object) -> str:
    return str(path)[:80]
