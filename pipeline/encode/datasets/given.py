"""Images that a program hands over one after another, as (key, image, label): from Python, without a folder.

Paths are read when their turn comes. Pictures in memory are set down in one file aside, so that a generator of any
length can be given: the plan needs every key and label before the first image is encoded.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import index as as_integer
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.errors import InputError
from ci2p_cache.printable import counted, printable
from ci2p_cache.regular_file import read_regular
from pipeline.encode.datasets.found import WHOLE, FoundImages
from pipeline.encode.datasets.labels import label_names
from pipeline.encode.datasets.split import UNKNOWN_STAMP, SourceSplit, Stamp, sorted_split
from pipeline.encode.image_values import IMAGE_TYPES, image_bytes, is_image_value

LAYOUT = "items are (key, image, label): a string, a path or a picture, and an integer or a string"
Item = tuple[str, Any, int | str]


@dataclass(frozen=True, eq=False)
class GivenImages:
    """An ImageSource: row r is the file `paths[r]`, or where there is none a stretch of the file aside."""

    paths: Sequence[str | None]
    begins: NDArray[np.int64]  # [num_rows], into the file aside; one more, where it ends
    aside: str

    def read(self, row: int) -> bytes:
        path = self.paths[row]
        if path is not None:
            return read_regular(path)
        with Path(self.aside).open("rb") as file:
            file.seek(int(self.begins[row]))
            return file.read(int(self.begins[row + 1] - self.begins[row]))

    def stamp(self, row: int) -> Stamp:
        path = self.paths[row]
        if path is None:
            return UNKNOWN_STAMP
        found = Path(path).stat()
        return Stamp(found.st_size, found.st_mtime_ns)


@dataclass(frozen=True, eq=False)
class _Listed:
    """The items of one part as they were given."""

    name: str  # of the argument
    keys: list[str]
    labels: list[int | str]
    images: GivenImages


@contextmanager
def given_images(
    items: Iterable[Item], val_items: Iterable[Item] | None, classes: Sequence[str] | None
) -> Iterator[FoundImages]:
    """The data set of these items: a whole of which val is held out, or with `val_items` train and val.

    Labels are strings, or indices into `classes`; without `classes` the distinct strings in alphabetical order, or the
    digits, are the classes. The file aside is gone when the context ends. Raises InputError, naming the item by its
    number, for one that is not (key, image, label), a key that is there twice and a label that is no class.
    """
    with NamedTemporaryFile(prefix="ci2p-items-") as aside:
        file: Any = aside
        listed = {WHOLE: _list("items", items, file, aside.name)}
        if val_items is not None:
            listed = {"train": listed[WHOLE], "val": _list("val_items", val_items, file, aside.name)}
        aside.flush()
        names = _classes(list(listed.values()), classes)
        yield FoundImages(
            layout="items from Python",
            parts={part: partial(_split, each, names) for part, each in listed.items()},
            called={part: each.name for part, each in listed.items()},
            expected=LAYOUT,
        )


def _list(name: str, items: Iterable[Item], aside: BinaryIO, aside_path: str) -> _Listed:
    keys: list[str] = []
    labels: list[int | str] = []
    paths: list[str | None] = []
    begins = [aside.tell()]
    number_of: dict[str, int] = {}
    for number, item in enumerate(items):
        where = f"{name}[{number}]"
        if not isinstance(item, tuple | list) or len(item) != 3:
            raise InputError(f"{where}: {item!r:.80} is of type {type(item).__name__}; {LAYOUT}")
        key, image, label = item
        if not isinstance(key, str) or not key or key != printable(key):
            raise InputError(f"{where}: the key {key!r:.80} is of type {type(key).__name__}; give a printable string")
        if key in number_of:
            raise InputError(f"{where}: the key {key} is that of {name}[{number_of[key]}] too; give each its own")
        number_of[key] = number
        keys.append(key)
        labels.append(_label(label, where))
        if isinstance(image, str | os.PathLike):
            paths.append(os.path.abspath(os.fspath(image)))  # noqa: PTH100  (resolve() would follow links)
        elif is_image_value(image):
            paths.append(None)
            aside.write(image_bytes(image, where))
        else:
            raise InputError(f"{where}: {image!r:.80} is of type {type(image).__name__}; give a path, {IMAGE_TYPES}")
        begins.append(aside.tell())
    if not keys:
        raise InputError(f"{name}: there is no item; {LAYOUT}")
    return _Listed(name, keys, labels, GivenImages(tuple(paths), np.array(begins, dtype=np.int64), aside_path))


def _label(label: Any, where: str) -> int | str:
    if isinstance(label, str):
        if label and label == printable(label):
            return label
    elif not isinstance(label, bool | np.bool_):
        try:
            number = as_integer(label)
        except TypeError:
            pass
        else:
            if number >= 0:
                return number
    raise InputError(
        f"{where}: the label {label!r:.80} is of type {type(label).__name__}; give an integer from 0 on, or a string"
    )


def _classes(parts: Sequence[_Listed], classes: Sequence[str] | None) -> tuple[str, ...]:
    numbered = [(part, number, label) for part in parts for number, label in enumerate(part.labels)]
    kinds = {type(label) for _, _, label in numbered}
    if len(kinds) > 1:
        part, number, label = next(each for each in numbered if type(each[2]) is not type(numbered[0][2]))
        raise InputError(
            f"{part.name}[{number}]: the label {label!r:.80} is of type {type(label).__name__}, and that of "
            f"{parts[0].name}[0] of type {type(numbered[0][2]).__name__}; give all as strings or all as integers"
        )
    if classes is None:
        strings = sorted({label for _, _, label in numbered if isinstance(label, str)})
        if strings:
            return tuple(strings)

        def where_is(label: int) -> str:
            return next(f"{part.name}[{number}]" for part, number, each in numbered if each == label)

        numbers = {label for _, _, label in numbered if isinstance(label, int)}
        return label_names(numbers, parts[0].name, where_is, "name the classes with classes=[...]")
    for part, number, label in numbered:
        if (label not in classes) if isinstance(label, str) else label >= len(classes):
            raise InputError(
                f"{part.name}[{number}]: the label {label!r:.80} is none of {counted(len(classes), 'class')} "
                f"({', '.join(map(str, classes[:5]))}{', ...' if len(classes) > 5 else ''}); name it in classes=[...]"
            )
    return tuple(classes)


def _split(listed: _Listed, classes: tuple[str, ...]) -> SourceSplit:
    label_of = {name: label for label, name in enumerate(classes)}
    labels = [label_of[label] if isinstance(label, str) else label for label in listed.labels]
    return sorted_split(classes, listed.keys, labels, listed.images)
