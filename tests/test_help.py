"""What the commands say of themselves."""

from importlib import metadata

import click
import pytest
from click.testing import CliRunner, Result

import cli
from ci2p_cache.printable import counted
from pipeline.commands.command import Command

COMMANDS = list(cli.main.commands)


def called(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_no_wider_than_the_terminal(command: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    described = cli.main.commands[command] if command else cli.main
    shown = described.get_help(click.Context(described, info_name=f"ci2p {command}"))
    assert max(map(len, shown.splitlines())) <= columns
    assert command or columns < 80 or "..." not in shown.partition("Commands:")[2]  # no description is cut


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained_once(command: str) -> None:
    shown = called(command, "--help").output.partition(":\n")[2]
    for option in cli.main.commands[command].params:
        if isinstance(option, click.Option):
            assert option.help, option.opts
            assert sum(line.startswith(f"  {option.opts[0]} ") for line in shown.splitlines()) == 1, option.opts


@pytest.mark.parametrize("command", ["encode", "train", "eval", "predict", "baseline", "fit-encoder"])
def test_long_help_is_in_groups_that_name_all_options(command: str) -> None:
    described = cli.main.commands[command]
    assert isinstance(described, Command)
    named = [name for names in described.groups.values() for name in names]
    options = [option.opts[0][2:] for option in described.params if isinstance(option, click.Option)]
    assert sorted(set(named) & set(options)) == sorted(options) and len(set(named)) == len(named)
    shown = called(command, "--help").output
    places = [shown.index(f"\n{heading}:\n") for heading in described.groups]
    assert places == sorted(places) and places[0] < shown.index(f"  --{named[0]} ") < places[1]


def test_without_a_command_the_help_is_shown_as_help() -> None:
    shown = called()
    assert (shown.exit_code, shown.stderr) == (0, "") and shown.stdout == called("--help").stdout
    assert shown.stdout.startswith("Usage: ")
    order = [shown.stdout.index(f"\n  {command} ") for command in COMMANDS]
    assert order == sorted(order)


def test_the_version() -> None:
    assert called("-V").output == called("--version").output
    assert metadata.version("ci2p") in called("-V").output


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (("train", "--nonsense"), "train"),
        (("encode", "--dataset", "nonsense"), "encode"),
        (("encode",), "encode"),
        (("eval", "--batch-size", "0"), "eval"),
        (("convert", "a"), "convert"),
        (("recipes", "show"), "recipes show"),
        (("nonsense",), ""),
        (("--nonsense",), ""),
    ],
)
def test_a_wrong_command_line_is_told_where_help_is(arguments: tuple[str, ...], path: str) -> None:
    finished = called(*arguments)
    assert finished.exit_code == 2 and len(finished.stderr.splitlines()) == 1
    assert finished.stderr.rstrip().endswith(f" {path} --help`.".replace("  ", " "))


def test_one_is_not_counted_as_many() -> None:
    assert [counted(n, "class") for n in (0, 1, 2)] == ["0 classes", "1 class", "2 classes"]
    assert counted(1, "image") == "1 image" and counted(1024, "image") == "1,024 images"
