"""Tables of images in parquet files: a column of encoded images, one of labels. Streamed, a row group at a time."""

import itertools
import logging
import posixpath
from collections.abc import Iterator, Sequence
from functools import cache, partial

import numpy as np

from ci2p_cache.errors import InputError
from ci2p_cache.left_out import LeftOut, merge_left_out
from ci2p_cache.packed_strings import PackedStrings
from ci2p_cache.printable import printable
from ci2p_cache.scratch import scratch_array
from pipeline.encode.datasets.found import WHOLE, FoundImages
from pipeline.encode.datasets.packed_files import PackedKind, find_packed
from pipeline.encode.datasets.parquet_columns import ChosenColumns, choose_columns
from pipeline.encode.datasets.parquet_files import Column, Footer, read_column, read_footer
from pipeline.encode.datasets.parquet_images import HELD_BYTES, ParquetImages
from pipeline.encode.datasets.parquet_labels import ParquetPart, class_names, read_all, read_part
from pipeline.encode.datasets.places import without_query
from pipeline.encode.datasets.split import SourceSplit, sorted_split
from pipeline.encode.datasets.table_columns import NO_COLUMNS, TableColumns

logger = logging.getLogger("ci2p")

PARQUET = PackedKind(".parquet", "parquet files")

_LARGE_GROUP = 16 << 20  # bytes
_ROW_DIGITS = 8  # of a key


def find_parquet(data_dir: str | None, seed: int, columns: TableColumns = NO_COLUMNS) -> FoundImages:
    """Parquet files, local or remote; `packed_files` says which `--data-dir` there are and how a file tells its split.

    Images are a column of bytes, or of structs with a field "bytes" as the `datasets` library writes them; labels are
    integers or strings. Integers are named by `columns.class_names`, else by what that library wrote into the file,
    else by their digits; strings are their own names, in alphabetical order unless those name them. A key is FILE/ROW,
    or what `columns.key` holds. Only footers, labels and keys are read here. Raises InputError.
    """
    if data_dir is None:
        raise InputError(f"--dataset parquet needs --data-dir; {PARQUET.layout}")
    found = find_packed(data_dir, PARQUET)
    footers = read_all(read_footer, [file for files in found.parts.values() for file in files])
    chosen = choose_columns(footers, columns)
    _warn_of_large_groups(list(footers.values()))
    parts, left_out, unlabelled = {}, found.left_out, {}
    for name, files in found.parts.items():
        part = read_part(files, footers, chosen)
        num_rows = sum(map(len, part.labels))
        if name == "test" and "train" in found.parts and not any((each >= 0).any() for each in part.labels):
            unlabelled["test"] = f"{_called(files)} holds no labels"
            lost = LeftOut(what="rows of test without labels", count=num_rows, names=tuple(map(_name, files[:10])))
            left_out = merge_left_out(left_out, [lost])
            continue
        if not num_rows:
            raise InputError(f"--data-dir: {printable(files[0])} and the files beside it hold no rows")
        parts[name] = part
    classes = class_names(parts, chosen)

    @cache
    def open_part(name: str) -> SourceSplit:
        return _split(parts[name], chosen, classes)

    return FoundImages(
        layout="parquet files: "
        + ", ".join(
            f"{len(part.files)} {'' if name == WHOLE else f'for {name}'}".strip() for name, part in parts.items()
        )
        + f"; images in {chosen.columns[0]}, labels in {chosen.columns[1]}",
        parts={name: partial(open_part, name) for name in parts},
        called={name: _called(part.files) for name, part in parts.items()},
        expected=PARQUET.layout,
        left_out=left_out,
        unlabelled=unlabelled,
        columns=chosen.columns,
    )


def _warn_of_large_groups(footers: Sequence[Footer]) -> None:
    """Images are read in the order of the plan, each with its row group, of which a process holds a few."""
    num_groups, num_bytes = sum(len(footer.group_rows) for footer in footers), sum(each.num_bytes for each in footers)
    if num_bytes > HELD_BYTES and num_bytes > _LARGE_GROUP * num_groups:
        num_rows = sum(sum(footer.group_rows) for footer in footers)
        logger.warning(
            "parquet: a row group has %d rows and %.0f MB on average, and all of it is read for an image in it; files "
            "with row groups of 100 rows or fewer (pyarrow's row_group_size) encode sooner",
            num_rows // num_groups,
            num_bytes / num_groups / 1e6,
        )


def _called(files: Sequence[str]) -> str:
    return _name(files[0]) if len(files) == 1 else f"{_name(files[0])} and {len(files) - 1} more"


def _name(file: str) -> str:
    return printable(posixpath.basename(without_query(file)))


def _split(part: ParquetPart, chosen: ChosenColumns, classes: tuple[str, ...]) -> SourceSplit:
    label_of = {name: label for label, name in enumerate(classes)}
    labels = scratch_array((sum(map(len, part.labels)),), np.int64)
    begin = 0
    for file, (values, names) in enumerate(zip(part.labels, part.names, strict=True)):
        missing = np.flatnonzero(values < 0)
        if len(missing):
            raise InputError(
                f"--data-dir: {part.where(file, int(missing[0]))} has no label (-1 or nothing in "
                f"{printable(chosen.label.path)}), nor have {len(missing) - 1} others of the file; take "
                "them out or label them"
            )
        if names is not None:
            places = [label_of[name if name in label_of else printable(name)] if name else -1 for name in names]
            values = np.array(places, dtype=np.int32)[values]
        labels[begin : begin + len(values)] = values
        begin += len(values)
    keys = _numbered_keys(part) if chosen.key is None else _column_keys(part, chosen.key)
    source = ParquetImages(part.files, chosen.image.path, [footer.group_rows for footer in part.footers])
    return sorted_split(tuple(map(printable, classes)), keys, labels, source)


def _numbered_keys(part: ParquetPart) -> PackedStrings:
    """FILE/ROW, FILE without what all files of the part have in common where names alone would not tell them apart."""
    paths = [without_query(file) for file in part.files]
    stems = [posixpath.splitext(posixpath.basename(path))[0] for path in paths]
    if len(set(stems)) < len(stems):
        folders = {tuple(path.split("/")[:-1]) for path in paths}
        num_common = sum(
            1 for _ in itertools.takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False))
        )
        stems = [posixpath.splitext("/".join(path.split("/")[num_common:]))[0] for path in paths]
    return PackedStrings(
        f"{printable(stem)}/{row:0{_ROW_DIGITS}d}"
        for stem, labels in zip(stems, part.labels, strict=True)
        for row in range(len(labels))
    )


def _column_keys(part: ParquetPart, column: Column) -> PackedStrings:
    def keys() -> Iterator[str]:
        for file, path in enumerate(part.files):
            for row, value in enumerate(read_column(path, column.path).to_pylist()):
                key = "" if value is None else str(value)
                if not key or key != printable(key):
                    raise InputError(
                        f"--key-column {printable(column.path)}: {part.where(file, row)} holds {value!r:.80}, which "
                        "is no name; mend it, or leave the option out"
                    )
                yield key

    return PackedStrings(keys())
