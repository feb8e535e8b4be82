"""What a command prints: lines for people, JSON for programs."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from ci2p_cache.printable import printable


def printable_lines(text: str) -> str:
    """File names that are not UTF-8 would end in an error of the stream's."""
    return "\n".join(map(printable, text.split("\n")))


def write_json(json_file: str | None, measured: Any) -> None:
    """What was measured, into the file that `--json` names."""
    if json_file == "-":
        click.echo(json.dumps(measured, indent=1))
    elif json_file:
        from ci2p_cache.publish import write_output

        write_output(Path(json_file), (json.dumps(measured, indent=1) + "\n").encode())


def report(json_file: str | None, lines: Iterable[str], measured: Any) -> None:
    """Lines for people and JSON for programs: a file of it first, for whoever reads the lines may go away."""
    if json_file != "-":
        write_json(json_file, measured)
    for line in lines:
        print_line(json_file, line)
    if json_file == "-":
        write_json(json_file, measured)


def print_line(json_file: str | None, line: str) -> None:
    """A line for people; to standard error when standard output carries the JSON."""
    click.echo(printable_lines(line), err=json_file == "-")
