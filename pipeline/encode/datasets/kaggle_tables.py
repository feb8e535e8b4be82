"""The two tables of Kaggle's ImageNet download: names of the classes, and the class of each validation image."""

import csv
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from ci2p_cache.errors import InputError
from ci2p_cache.printable import counted
from ci2p_cache.user_text import lines_of, read_text

logger = logging.getLogger("ci2p")

MAPPING = "LOC_synset_mapping.txt"
ANSWERS = "LOC_val_solution.csv"

_MAPPING_LINE = re.compile(r"(n[0-9]{8})\s+([^\s,].*)")
_WNID = re.compile(r"n[0-9]{8}")
_VAL_ID = re.compile(r"ILSVRC2012_val_([0-9]{8})(\.[A-Za-z]+)?")
_COLUMNS = ("ImageId", "PredictionString")


def read_mapping(path: Path) -> dict[str, str]:
    """wnid -> names, from lines "n01440764 tench, Tinca tinca".

    A line that a spreadsheet put in quotes is read without them. Raises InputError, naming the line, for any other, and
    for a wnid with two meanings.
    """
    where = f"--data-dir: {path}"
    words: dict[str, str] = {}
    line_of: dict[str, int] = {}
    for number, line in lines_of(read_text(path, where)):
        if line.startswith('"') and line.endswith('"'):
            line = line[1:-1].replace('""', '"').strip()
        match = _MAPPING_LINE.fullmatch(line)
        if match is None:
            raise InputError(
                f"{where}, line {number}: {line[:80]!r} is not of the form 'n01440764 tench, Tinca tinca'; correct it, "
                "or take the file as Kaggle has it"
            )
        wnid, names = match.groups()
        if words.setdefault(wnid, names) != names:
            raise InputError(
                f"{where}, line {number}: {wnid} is {names[:40]!r} here and {words[wnid][:40]!r} on line "
                f"{line_of[wnid]}; remove one of them"
            )
        line_of.setdefault(wnid, number)
    if not words:
        raise InputError(f"{where} is empty; take the file as Kaggle has it")
    return words


def read_answers(path: Path) -> dict[int, str]:
    """Number of each validation image -> wnid, from rows ImageId, "n01440764 left top right bottom ...".

    Columns may be in any order, further ones may be there, and commas, semicolons or tabs may part them (spreadsheets
    write what their language wants). Rows of other images are counted in a warning. Raises InputError, naming the line,
    for a row that is incomplete and for an image with two classes.
    """
    where = f"--data-dir: {path}"
    text = read_text(path, where)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise InputError(f"{where} is empty; take the file as Kaggle has it")
    (header_number, header), *rows = lines
    delimiter = next((mark for mark in ",;\t" if mark in header), ",")
    columns = [name.strip() for name in _fields(header, delimiter, f"{where}, line {header_number}")]
    if any(columns.count(name) != 1 for name in _COLUMNS):
        raise InputError(
            f"{where}, line {header_number}: the columns {' and '.join(_COLUMNS)} were expected, once each, and it has "
            f"{header[:80]!r}; take the file as Kaggle has it"
        )
    places = [columns.index(name) for name in _COLUMNS]
    wnids: dict[int, str] = {}
    line_of: dict[int, int] = {}
    others: list[str] = []
    for number, line in rows:
        here = f"{where}, line {number}"
        fields = _fields(line, delimiter, here)
        image, answer = (fields[place].strip() if place < len(fields) else "" for place in places)
        if not any(field.strip() for field in fields):
            continue  # an empty row, as spreadsheets write below a table
        match = _VAL_ID.fullmatch(image)
        if image and match is None:
            others.append(f"{image[:40]} on line {number}")
            continue
        wnid = answer.partition(" ")[0]
        if match is None or not _WNID.fullmatch(wnid):
            missing = f"{image} has the {_COLUMNS[1]} {answer[:40]!r}" if image else f"there is no {_COLUMNS[0]}"
            raise InputError(f"{here}: {missing}; a class such as n01440764 was expected: fill it in or remove the row")
        image_number = int(match[1])
        if wnids.setdefault(image_number, wnid) != wnid:
            raise InputError(
                f"{here}: {image} is of the class {wnid} here and {wnids[image_number]} on line "
                f"{line_of[image_number]}; remove one of them"
            )
        line_of.setdefault(image_number, number)
    if not wnids:
        raise InputError(f"{where} lists no validation image (ILSVRC2012_val_00000001 ...); take it as Kaggle has it")
    _warn_of_others(where, others)
    return wnids


def _fields(line: str, delimiter: str, where: str) -> list[str]:
    """The fields of a line of a table. Raises InputError for a quote left open and a field without end."""
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True))
    except csv.Error as error:
        reason = "a quote is left open" if "unexpected end" in str(error) else str(error)
        raise InputError(f"{where}: {reason}; correct the line, or take the file as Kaggle has it") from error


def _warn_of_others(where: str, others: Sequence[str]) -> None:
    if others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        logger.warning("%s: without %s of no validation image: %s", where, counted(len(others), "row"), shown)
