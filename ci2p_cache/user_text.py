"""Text that people wrote or a spreadsheet saved: recipes, label files, class lists, tables.

Read leniently where the meaning is plain (a byte order mark, CRLF, UTF-16 with its mark, blank lines at the end), and
refused by file and line where it is not.
"""

import codecs
import os
import re
import stat
from pathlib import Path

from ci2p_cache.errors import InputError

_UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: str | Path, where: str) -> str:
    """The text of a file, with lines that end in "\\n" alone; a leading `~` is the home folder.

    `where` begins the message of the InputError that is raised for a file that is missing, cannot be read, is a folder
    or a pipe (which might never end), or is no text.
    """
    try:
        with open(Path(path).expanduser(), "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError(f"{where} is no regular file; give a text file")
            data = file.read()
    except IsADirectoryError:
        raise InputError(f"{where} is a folder; give a text file") from None
    except OSError as error:
        raise InputError(f"{where} cannot be read: {error.strerror or error}") from error
    except (RuntimeError, ValueError) as error:  # no home folder of such a user; a NUL in the name
        raise InputError(f"{where} cannot be read: {error}") from error
    return decode_text(data, where)


def decode_text(data: bytes, where: str) -> str:
    """The text that `data` encodes: UTF-8, or UTF-16 with its byte order mark; CRLF and a lone CR become "\\n".

    Byte order marks go, those at the beginning of later lines too (files that were joined). Raises InputError that says
    `where` and the line of the first byte that is no such text, NUL included.
    """
    encoding = "utf-16" if data.startswith(_UTF_16_MARKS) else "utf-8"
    try:
        text = _lines(data.decode(encoding))
    except UnicodeDecodeError as error:
        line = _lines(data[: error.start].decode(encoding, "ignore")).count("\n") + 1
        raise InputError(
            f"{where}, line {line}: byte 0x{data[error.start]:02x} is not {encoding.upper()}; save the file as UTF-8"
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputError(f"{where}, line {line}: a NUL byte, which no text has; save the file as UTF-8 text")
    return text


def lines_of(text: str) -> list[tuple[int, str]]:
    """(line number from 1, line without the blanks around it) of every line that is not blank."""
    stripped = ((number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    return [(number, line) for number, line in stripped if line]


def list_of(text: str, where: str) -> list[str]:
    """The lines of a list in which line n is entry n; blank lines at the end are none of it.

    Raises InputError, naming the line, for a blank line between others: leaving it out would renumber what follows.
    """
    lines = lines_of(text)
    for expected, (number, _) in enumerate(lines, start=1):
        if number != expected:
            raise InputError(f"{where}, line {expected} is blank, and each line counts; fill it in or remove it")
    return [line for _, line in lines]


def names_of(text: str, where: str) -> tuple[str, ...]:
    """A list of names, one a line, as `list_of`; no two may be the same. Raises InputError, naming both lines."""
    names = list_of(text, where)
    line_of: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if name in line_of:
            raise InputError(
                f"{where}, line {number}: {name!r} is also line {line_of[name]}; each name may be given once"
            )
        line_of[name] = number
    return tuple(names)


def _open_at_once(path: str, flags: int) -> int:
    """Opening a pipe that nobody writes to would wait for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def _lines(text: str) -> str:
    return re.sub("^\ufeff+", "", text.replace("\r\n", "\n").replace("\r", "\n"), flags=re.MULTILINE)
