"""The columns of parquet files that hold images, labels and keys: as options name them, else by kind and name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from ci2p_cache.errors import InputError
from ci2p_cache.printable import printable
from ci2p_cache.user_text import names_of, read_text
from pipeline.encode.datasets.labels import LABEL_COLUMNS
from pipeline.encode.datasets.parquet_files import Column, Footer
from pipeline.encode.datasets.table_columns import OPTIONS, TableColumns

_IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "content")


@dataclass(frozen=True)
class ChosenColumns:
    """The columns that are used: what is read of each, and in `columns` as options name them."""

    image: Column
    label: Column
    key: Column | None
    names: tuple[str, ...] | None  # of the classes, where they are known
    names_from: str  # for messages
    columns: tuple[str, ...]


def choose_columns(footers: Mapping[str, Footer], columns: TableColumns) -> ChosenColumns:
    """The columns of all files. Raises InputError, naming file and option, where they are not there or not alike."""
    first, footer = next(iter(footers.items()))
    image = _image_column(first, footer, columns.image)
    label = _label_column(first, footer, columns.label)
    key = None if columns.key is None else _named(first, footer, "key", columns.key, ("string", "integer"))
    for file, other in footers.items():
        for each, option in ((image, "image"), (label, "label"), (key, "key")):
            if each is not None and each not in other.columns:
                now = next((one.kind for one in other.columns if one.path == each.path), None)
                found = f"holds {now} there" if now else "is not there"
                raise InputError(
                    f"--data-dir: {printable(file)} differs from {printable(first)}: the column {printable(each.path)} "
                    f"({each.kind}) {found}; give files of one table, or another {OPTIONS[option]}"
                )
        if _feature_names(other, label) != _feature_names(footer, label):
            raise InputError(f"--data-dir: {printable(file)} and {printable(first)} name their classes differently")
    names, names_from = _feature_names(footer, label), printable(first)
    if names is None and columns.known_names is not None:
        names, names_from = columns.known_names, "what was made of it"
    if columns.class_names is not None:
        names_from = f"--class-names {printable(columns.class_names)}"
        names = tuple(map(printable, names_of(read_text(columns.class_names, names_from), names_from)))
        if not names:
            raise InputError(f"{names_from} is empty; write the name of each class in a line")
    used = (image.path.removesuffix(".bytes"), label.path, *([key.path] if key else []))
    return ChosenColumns(image, label, key, names, names_from, used)


def _image_column(file: str, footer: Footer, wanted: str | None) -> Column:
    if wanted is not None:
        leaf = f"{wanted}.bytes"
        is_struct = any(column.path == leaf for column in footer.columns)
        return _named(file, footer, "image", leaf if is_struct else wanted, ("binary",))
    binary = [column for column in footer.columns if column.kind == "binary"]
    called = [name for name, feature in footer.features.items() if _is_a(feature, "Image")] + list(_IMAGE_COLUMNS)
    chosen = [column for name in called for column in binary if column.path in (name, f"{name}.bytes")]
    if chosen or len(binary) == 1:
        return chosen[0] if chosen else binary[0]
    if binary:
        raise InputError(
            f"--data-dir: {printable(file)} has several columns of bytes ({_paths(binary)}); name the images' by "
            "--image-column"
        )
    raise InputError(f"--data-dir: {printable(file)} has no column of image bytes among {_described(footer)}")


def _label_column(file: str, footer: Footer, wanted: str | None) -> Column:
    kinds = ("integer", "string")
    if wanted is not None:
        return _named(file, footer, "label", wanted, kinds)
    classes = [name for name, feature in footer.features.items() if _is_a(feature, "ClassLabel")]
    called = [*(["label"] if "label" in classes else []), *classes, *LABEL_COLUMNS]
    for name in called:
        for column in footer.columns:
            if column.path == name and column.kind in kinds:
                return column
    raise InputError(
        f"--data-dir: {printable(file)} has no column of labels called {', '.join(LABEL_COLUMNS[:-1])} or "
        f"{LABEL_COLUMNS[-1]} among {_described(footer)}; name it by --label-column"
    )


def _named(file: str, footer: Footer, option: str, name: str, kinds: tuple[str, ...]) -> Column:
    given = f"{OPTIONS[option]} {printable(name.removesuffix('.bytes') if option == 'image' else name)}"
    for column in footer.columns:
        if column.path == name:
            if column.kind not in kinds:
                article = "integers or strings" if len(kinds) > 1 else "image bytes, or structs with a field bytes"
                raise InputError(f"{given}: that column of {printable(file)} holds {column.kind}, and not {article}")
            return column
    raise InputError(f"{given}: {printable(file)} has no such column; it has {_described(footer)}")


def _described(footer: Footer) -> str:
    return ", ".join(f"{printable(column.path)} ({column.kind})" for column in footer.columns)


def _paths(columns: Sequence[Column]) -> str:
    return ", ".join(printable(column.path) for column in columns)


def _is_a(feature: Any, kind: str) -> TypeGuard[dict[str, Any]]:
    return isinstance(feature, dict) and feature.get("_type") == kind


def _feature_names(footer: Footer, label: Column) -> tuple[str, ...] | None:
    feature = footer.features.get(label.path)
    if label.kind != "integer" or not _is_a(feature, "ClassLabel"):
        return None
    names = feature.get("names")
    return tuple(map(printable, map(str, names))) if isinstance(names, list) and names else None
