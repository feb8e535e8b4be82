"""Which columns of a table hold what: as options say, else as the table's own kinds and names do."""

from collections.abc import Sequence
from dataclasses import dataclass

from ci2p_cache.errors import InputError

OPTIONS = {
    "image": "--image-column",
    "label": "--label-column",
    "key": "--key-column",
    "class_names": "--class-names",
}


@dataclass(frozen=True)
class TableColumns:
    """Names of columns, a field of a struct as "image.path"; None is what the table itself says."""

    image: str | None = None
    label: str | None = None
    key: str | None = None
    class_names: str | None = None  # a file with the name of class n in line n, from 0
    known_names: tuple[str, ...] | None = None  # no option: of whoever has seen the table before

    def given(self) -> list[str]:
        """The options that were given, with their values."""
        return [f"{option} {getattr(self, field)}" for field, option in OPTIONS.items() if getattr(self, field)]


NO_COLUMNS = TableColumns()


def known_columns(columns: tuple[str, ...] | None, classes: Sequence[str] | None) -> TableColumns:
    """The columns that a cache keeps in its spec, none of what is no table; and the names of its classes."""
    if columns is None:
        return NO_COLUMNS
    image, label, key = (*columns, None)[:3]
    return TableColumns(image, label, key, known_names=None if classes is None else tuple(classes))


def refuse_columns(dataset: str, columns: TableColumns) -> None:
    """Raises InputError where columns are named of a data set that is no table."""
    if columns.given():
        raise InputError(
            f"{columns.given()[0]}: --dataset {dataset} has no columns to choose; give --dataset parquet, or leave the "
            "option out"
        )
