"""The labels of parquet files, and the names of their classes."""

import posixpath
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.errors import InputError
from ci2p_cache.printable import counted, printable
from pipeline.encode.datasets.labels import LARGEST_LABEL, label_names
from pipeline.encode.datasets.parquet_columns import ChosenColumns
from pipeline.encode.datasets.parquet_files import Column, Footer, read_column

T = TypeVar("T")
UNLABELLED = -1
_READING_THREADS = 16  # a file on a server is a wait


@dataclass(frozen=True, eq=False)
class ParquetPart:
    """The files of a split: their footers, and the label of every row, an index into `names` for strings."""

    files: tuple[str, ...]
    footers: tuple[Footer, ...]
    labels: list[NDArray[np.int32]]  # a file's each; -1 where there is none
    names: list[tuple[str, ...] | None]  # likewise; None for integers

    def where(self, file: int, row: int) -> str:
        """A row, for messages: "row 3 of train-0.parquet"."""
        return f"row {row} of {printable(posixpath.basename(self.files[file]))}"


def read_all(read: Callable[[str], T], files: Sequence[str]) -> dict[str, T]:
    """What `read` gives of each file, several at a time."""
    with ThreadPoolExecutor(_READING_THREADS, thread_name_prefix="ci2p-parquet") as threads:
        return dict(zip(files, threads.map(read, files), strict=True))


def read_part(files: tuple[str, ...], footers: Mapping[str, Footer], chosen: ChosenColumns) -> ParquetPart:
    found = read_all(partial(_read_labels, column=chosen.label), files)
    labels, names = [found[file][0] for file in files], [found[file][1] for file in files]
    small = [each.astype(np.int32) for each in labels]  # what does not fit is refused below
    part = ParquetPart(files, tuple(footers[file] for file in files), small, names)
    most = LARGEST_LABEL + 1 if chosen.names is None else len(chosen.names)
    for file, (values, own) in enumerate(zip(labels, names, strict=True)):
        bad = np.flatnonzero((values < UNLABELLED) | (values >= most)) if own is None else np.empty(0, np.int64)
        if len(bad):
            named = "" if chosen.names is None else f" ({chosen.names_from} names {counted(most, 'class')})"
            raise InputError(
                f"--data-dir: {part.where(file, int(bad[0]))} has {printable(chosen.label.path)} {values[bad[0]]}, "
                f"which is no class{named}; mend it, or name another column by --label-column"
            )
    return part


def _read_labels(file: str, column: Column) -> tuple[NDArray[np.int64], tuple[str, ...] | None]:
    """(labels of a file's rows, -1 where there is none; the names that they are indices of, None for integers)."""
    import pyarrow as pa
    import pyarrow.compute

    pc: Any = pyarrow.compute  # its functions are made when it is imported, so that no type checker knows them
    values = read_column(file, column.path)
    if column.kind == "integer":
        try:
            numbers = pc.fill_null(values.cast(pa.int64()), UNLABELLED)
        except pa.ArrowInvalid as error:
            raise InputError(
                f"--data-dir: {printable(file)}: {printable(column.path)} holds an integer beyond 2^63"
            ) from error
        return numbers.to_numpy().astype(np.int64, copy=False), None
    encoded = values.cast(pa.large_string()).combine_chunks().dictionary_encode()
    names = tuple(encoded.dictionary.to_pylist())
    codes = pc.fill_null(encoded.indices, UNLABELLED).to_numpy(zero_copy_only=False).astype(np.int64)
    if "" in names:
        codes[codes == names.index("")] = UNLABELLED
    return codes, names


def class_names(parts: Mapping[str, ParquetPart], chosen: ChosenColumns) -> tuple[str, ...]:
    """The names of the classes, in the order of the labels."""
    if chosen.label.kind == "string":
        strings = sorted({name for part in parts.values() for names in part.names for name in names or () if name})
        if chosen.names is None:
            if not strings:
                raise InputError(
                    f"--data-dir: no row has anything in {printable(chosen.label.path)}, which holds labels"
                )
            return tuple(strings)
        unknown = [name for name in strings if printable(name) not in chosen.names]
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise InputError(
                f"{chosen.names_from} does not name the class {printable(unknown[0])}{more} of "
                f"{printable(chosen.label.path)}; add it"
            )
        return chosen.names
    if chosen.names is not None:
        return chosen.names
    different = {
        int(label) for part in parts.values() for labels in part.labels for label in np.unique(labels) if label >= 0
    }
    if not different:
        raise InputError(f"--data-dir: no row has a label in {printable(chosen.label.path)}")

    def where_is(label: int) -> str:
        return next(
            part.where(file, int(np.flatnonzero(labels == label)[0]))
            for part in parts.values()
            for file, labels in enumerate(part.labels)
            if (labels == label).any()
        )

    return label_names(different, "--data-dir", where_is, "name the classes by --class-names FILE")
