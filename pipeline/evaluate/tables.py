"""Predictions as CSV: for spreadsheets, pandas and competitions. UTF-8, a header, a line an image."""

import csv
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from ci2p_cache.errors import InputError
from ci2p_cache.printable import printable
from ci2p_cache.publish import publish


def refuse_no_file(table: str, option: str) -> None:
    """Raises InputError, before hours of work, where no file can come to lie."""
    if not table or Path(table).is_dir():
        raise InputError(
            f"{option} {table or repr(table)}: that is a folder or no name; give a file, as in {option} x.csv"
        )


def write_table(table: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Publishes the whole table at once, to standard output if it is called "-". Raises OSError as `publish` does."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([printable(cell) for cell in row] for row in rows)
    if table == "-":
        sys.stdout.write(text.getvalue())
    else:
        publish(Path(table), text.getvalue().encode())


def top_columns(top: int) -> list[str]:
    """class, probability, class_2, probability_2, ..."""
    return [f"{name}_{rank}" if rank > 1 else name for rank in range(1, top + 1) for name in ("class", "probability")]


def top_cells(probabilities_K: Tensor, classes: Sequence[str], top: int) -> list[str]:
    """The likeliest classes, each followed by its probability; of equal ones the first."""
    order = probabilities_K.argsort(descending=True, stable=True)[:top].tolist()
    return [cell for k in order for cell in (classes[k], share(probabilities_K[k]))]


def share(probability: Tensor) -> str:
    """Enough digits to tell any two float32 apart."""
    return f"{float(probability):.9g}"
