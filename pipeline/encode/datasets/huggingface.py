"""Image sets of the Hugging Face hub, or saved on disk, through the `datasets` library (an optional extra)."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.errors import InputError
from ci2p_cache.extras import not_installed
from ci2p_cache.left_out import LeftOut, LeftOutFiles
from ci2p_cache.printable import printable
from pipeline.encode.datasets.found import SPLITS, WHOLE, FoundImages
from pipeline.encode.datasets.labels import LABEL_COLUMNS, LARGEST_LABEL, label_names
from pipeline.encode.datasets.listing import image_files
from pipeline.encode.datasets.split import SourceSplit, sorted_split
from pipeline.encode.datasets.split_names import split_of_name
from pipeline.encode.datasets.table_images import TableImages, list_table_images, relative_name, table_keys, table_paths

LAYOUT = "give a name on the hub (such as frgfm/imagenette), a local folder of images, or one made by save_to_disk"

_UNLABELLED = -1


@dataclass(frozen=True)
class _Columns:
    """The columns of all tables that are used; `names` of the classes where the label column has them."""

    image: str
    label: str
    names: tuple[str, ...] | None


@dataclass(frozen=True, eq=False)
class _Part:
    """A split of the library: its table, and the labels of its rows as the table has them, None where there is none."""

    split: str
    table: Any
    values: list[int | str | None]


def find_huggingface(data_dir: str | None, seed: int) -> FoundImages:
    """A data set with an image column and a label column; of several, the first image and "label", or the first.

    Labels are a ClassLabel, or a column called label, class, ... of integers or strings. A split without any label
    (many have such a test) is none, and is counted as left out. `table_keys` says what a key is. Raises InputError,
    also when the extra is not installed.
    """
    if data_dir is None:
        raise InputError(f"--dataset huggingface needs --data-dir; {LAYOUT}")
    where = f"--data-dir {printable(data_dir)}"
    folder = _local_folder(data_dir, where)
    with _library_errors(where):
        tables = _load_tables(data_dir, folder, where)
        chosen, left_out = _choose_splits(tables, where)
        columns = _find_columns({split: tables[split] for split in chosen.values()}, where)
        parts: dict[str, _Part] = {}
        for part, split in chosen.items():
            values = _values(tables[split], columns, where, split)
            if any(value is not None for value in values):
                parts[part] = _Part(split, tables[split], values)
            else:
                rows = tuple(f"row {row}" for row in range(min(len(values), 3)))
                left_out.append(LeftOut(what=f"rows of {split} without labels", count=len(values), names=rows))
        left_out += _files_beside(folder, tables, columns.image) if folder else ()
    if not parts:
        raise InputError(f"{where}: no split has labels ({', '.join(chosen.values())}); {LAYOUT}")
    if list(parts) == ["train"]:
        parts = {WHOLE: parts["train"]}
    classes = _classes(parts, columns, where)

    @cache
    def open_part(part: str) -> SourceSplit:
        with _library_errors(where):
            return _open_part(part, parts[part], columns, classes, folder, where)

    unlabelled = {part: f"{split} has no labels" for part, split in chosen.items() if part not in {*parts, "train"}}
    return FoundImages(
        layout=f"a table of images: {', '.join(part.split for part in parts.values())}",
        parts={part: partial(open_part, part) for part in parts},
        called={part: each.split for part, each in parts.items()},
        expected=LAYOUT,
        left_out=tuple(left_out),
        unlabelled=unlabelled,
    )


def _local_folder(data_dir: str, where: str) -> Path | None:
    """`data_dir` as an absolute path, None when there is no such folder: it is a name on the hub then."""
    if not data_dir.strip():
        raise InputError(f"--data-dir '{printable(data_dir)}': that is no name; {LAYOUT}")
    try:
        folder = Path(os.path.abspath(Path(data_dir).expanduser()))  # noqa: PTH100  (resolve() would follow links)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{where}: that is a file, not a folder; {LAYOUT}")
        return folder if folder.is_dir() else None
    except (RuntimeError, ValueError) as error:  # ~nosuchuser, a NUL character
        raise InputError(f"{where}: {error}; {LAYOUT}") from error


def _load_tables(data_dir: str, folder: Path | None, where: str) -> dict[str, Any]:
    import datasets

    if folder is None:
        loaded = datasets.load_dataset(data_dir)
    elif _is_saved(folder):
        loaded = datasets.load_from_disk(str(folder))
    elif re.search(r"[*?\[]", str(folder)):  # the library has no escape for them
        raise InputError(
            f"{where}: the library takes [, * and ? in a path for a pattern; rename the folder, or give a link to it"
        )
    else:
        loaded = datasets.load_dataset(str(folder))
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


@contextmanager
def _library_errors(where: str) -> Iterator[None]:
    """Turns what the library raises, of the network and of files that are not what it thinks, into one line."""
    try:
        import datasets  # heavy, and an extra
        import pyarrow as pa
    except ImportError as error:
        raise not_installed("huggingface", "--dataset huggingface", error) from error
    network = (sys.modules["httpx"].HTTPError,) if "httpx" in sys.modules else ()
    damaged = (OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError, pa.ArrowException)
    try:
        yield
    except (*damaged, *network, datasets.exceptions.DatasetsError) as error:
        reasons = [str(each) for each in (error, error.__cause__) if each is not None and str(each)]
        text = printable(" ".join(": ".join(reasons or [type(error).__name__]).split()))[:300]
        raise InputError(f"{where}: cannot be loaded ({text}); {LAYOUT}") from error


def _choose_splits(tables: Mapping[str, Any], where: str) -> tuple[dict[str, str], list[LeftOut]]:
    """The library's split for each of SPLITS, and what is in those that are for none of them."""
    chosen: dict[str, str] = {}
    left_out: list[LeftOut] = []
    for name in sorted(tables):
        split = split_of_name(name)
        if not split:
            what = f"rows of the split {printable(name)}, which is not for training or validation"
            left_out.append(LeftOut(what=what, count=len(tables[name]), names=(printable(name),)))
        elif split in chosen:
            raise InputError(
                f"{where}: {chosen[split]} and {name} would both be {split}; save the one that is meant by save_to_disk"
            )
        else:
            chosen[split] = name
    if not chosen:
        raise InputError(f"{where}: there is no train split, only {', '.join(sorted(tables))}; {LAYOUT}")
    return {split: chosen[split] for split in SPLITS if split in chosen}, left_out


def _files_beside(folder: Path, tables: Mapping[str, Any], column: str) -> tuple[LeftOut, ...]:
    """What lies in the folder and in none of its tables.

    Where these are of files in the folder, that is every other file; where they hold the images themselves, pictures
    alone, since which files the tables came from is not known.
    """
    taken = {path for table in tables.values() for path in table_paths(table, column) if path}
    is_of_files = any(path.startswith(f"{folder}/") for path in taken)
    left_out = LeftOutFiles()
    for name in image_files(folder, ".", left_out):
        if str(folder / name) not in taken:
            left_out.add("images that are in no table", printable(name.removeprefix("./")), pictures=True)
    return tuple(
        entry.model_copy(update={"names": tuple(name.removeprefix("./") for name in entry.names)})
        for entry in left_out.listed()
        if is_of_files or entry.pictures
    )


def _find_columns(tables: Mapping[str, Any], where: str) -> _Columns:
    """The columns that are used, the same in every table."""
    columns = {split: _columns_of(table.features, where) for split, table in tables.items()}
    first = next(iter(columns))
    for split, found in columns.items():
        if found.names != columns[first].names:
            raise InputError(f"{where}: {first} and {split} name their classes differently")
        if found != columns[first]:
            raise InputError(f"{where}: {first} and {split} have different columns; give them the same")
    return columns[first]


def _columns_of(features: Mapping[str, Any], where: str) -> _Columns:
    import datasets

    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    named = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    plain = [name for name in LABEL_COLUMNS if name in features and _is_plain(features[name])]
    if not images or not (named or plain):
        what = "image" if not images else "ClassLabel"
        raise InputError(
            f"{where}: no {what} column among {', '.join(features)}; both kinds are needed (labels may also be "
            f"integers or strings in a column called {', '.join(LABEL_COLUMNS[:-1])} or {LABEL_COLUMNS[-1]})"
        )
    if not named:
        return _Columns(images[0], plain[0], None)
    label = "label" if "label" in named else named[0]
    names = tuple(features[label].names)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{where}: the column {label} names the class {printable(twice)} twice; mend the table")
    return _Columns(images[0], label, names)


def _is_plain(feature: Any) -> bool:
    import datasets

    return isinstance(feature, datasets.Value) and (
        feature.dtype in ("string", "large_string") or feature.dtype.startswith(("int", "uint"))
    )


def _values(table: Any, columns: _Columns, where: str, split: str) -> list[int | str | None]:
    """The label of each row, None where there is none. Raises InputError for one that is no class."""
    found = table.select_columns([columns.label]).with_format("arrow")[:].column(columns.label).to_pylist()
    limit = LARGEST_LABEL + 1 if columns.names is None else len(columns.names)
    values = [None if value == _UNLABELLED or value == "" else value for value in found]
    for row, value in enumerate(values):
        if isinstance(value, int) and not 0 <= value < limit:
            raise InputError(f"{where}: row {row} of {split} has {columns.label} {value}, which is no class; mend it")
    return values


def _classes(parts: Mapping[str, _Part], columns: _Columns, where: str) -> tuple[str, ...]:
    """The names of the classes: the column's, else the strings in it in alphabetical order, else the digits."""
    if columns.names is not None:
        return columns.names
    different = {value for part in parts.values() for value in part.values if value is not None}
    strings = sorted(value for value in different if isinstance(value, str))
    if strings:
        return tuple(strings)
    numbers = {value for value in different if isinstance(value, int)}

    def where_is(label: int) -> str:
        part = next(part for part in parts.values() if label in part.values)
        return f"row {part.values.index(label)} of {part.split}"

    return label_names(numbers, where, where_is, "make the column a ClassLabel")


def _open_part(
    name: str, part: _Part, columns: _Columns, classes: tuple[str, ...], folder: Path | None, where: str
) -> SourceSplit:
    of_split = f"{where}: {part.split}"
    if None in part.values:
        row = part.values.index(None)
        raise InputError(
            f"{of_split}: some images have no label (-1 or nothing in {columns.label}, first in row {row}); "
            "take them out or label them"
        )
    label_of = {value: label for label, value in enumerate(classes)}
    labels: NDArray[np.int64] = np.array(
        [label_of[value] if isinstance(value, str) else value for value in part.values], dtype=np.int64
    )
    images = list_table_images(part.table, columns.image, of_split)
    _check_split_folders(name, images, folder, where)
    keys = table_keys(images, labels, folder, of_split)
    return sorted_split(tuple(map(printable, classes)), keys, labels.tolist(), images)


def _check_split_folders(part: str, images: TableImages, folder: Path | None, where: str) -> None:
    """Raises InputError where the library has taken Test/CLASS/x.jpg for another split than test."""
    if folder is None:
        return
    for path in images.paths:
        inside = relative_name(path, folder).split("/") if path else []
        says = split_of_name(inside[0]) if len(inside) > 2 else None
        if says and says != part and not (part == WHOLE and says == "train"):
            raise InputError(
                f"{where}: the library takes {inside[0]}/ for a part of train, not for {says}; rename it {says}/, or "
                "give --dataset folder"
            )
