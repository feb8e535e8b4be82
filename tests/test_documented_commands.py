"""Every command line that stands in the pages is one that the commands take: it is parsed, not run."""

import argparse
import contextlib
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import cli
from tests.conftest import REPOSITORY

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_CI2P = re.compile(r"(?:[A-Z0-9_]+=\S+ |torchrun .*--no-python |srun .*)*ci2p((?: .*)?)")
_BENCHMARK = re.compile(r"(?:\S+/)?python benchmarks/(\w+)\.py(.*)", re.DOTALL)


def command_lines(text: str) -> Iterator[tuple[str, bool]]:
    """(command line, whether it is whole) of a page: the lines of its blocks, and spans, which may leave things out."""
    for block in _BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            yield line.strip(), True
    for span in _SPAN.findall(_BLOCK.sub("", text)):
        yield " ".join(span.split()), False


def words_of(arguments: str) -> list[str]:
    """As a shell cuts them, up to a pipe, a file to write into or the next command; one letter stands for a number."""
    words = shlex.split(arguments, comments=True)
    end = next((at for at, word in enumerate(words) if word in ("|", ">", "<", "&&", "&", ";")), len(words))
    return [re.sub(r"^[A-Z]$", "1", word) for word in words[:end]]


def ci2p_lines() -> list[tuple[str, str, bool]]:
    found = []
    for page in PAGES:
        for line, whole in command_lines(page.read_text()):
            if (whole or line != "ci2p") and _CI2P.fullmatch(line):
                found.append((page.name, line, whole))
    return list(dict.fromkeys(found))


def benchmark_lines() -> list[tuple[str, str]]:
    lines = [(page.name, line) for page in PAGES for line, _ in command_lines(page.read_text())]
    return list(dict.fromkeys(entry for entry in lines if _BENCHMARK.fullmatch(entry[1])))


def parse_ci2p(line: str, whole: bool) -> None:
    """Raises click.UsageError for what ends in a usage error; what is missing is one for a whole line alone."""
    matched = _CI2P.fullmatch(line)
    assert matched
    words, command = words_of(matched[1]), cli.main
    described: click.Command = command
    while isinstance(described, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        if name not in described.commands:
            raise click.UsageError(f"no command {name}")
        described = described.commands[name]
    if isinstance(described, click.Group) and not words:
        return  # shows its help, or what there is
    try:
        with contextlib.suppress(click.exceptions.Exit):
            described.make_context("ci2p", words, obj=[])
    except click.MissingParameter:
        if whole:
            raise


def test_the_pages_have_commands() -> None:
    assert len(ci2p_lines()) > 40 and len(benchmark_lines()) > 15
    assert {"README.md", "encoder.md", "deploying.md", "models.md"} <= {page for page, *_ in ci2p_lines()}


@pytest.mark.parametrize(("page", "line", "whole"), ci2p_lines())
def test_a_command_is_taken(page: str, line: str, whole: bool) -> None:
    parse_ci2p(line, whole)


@pytest.mark.parametrize(
    "line",
    ["ci2p trane", "ci2p train --shard c", "ci2p encode --format tar", "ci2p convert a", "ci2p recipes print best"],
)
def test_a_wrong_command_is_not(line: str) -> None:
    with pytest.raises(click.UsageError):
        parse_ci2p(line, True)


class _Parsed(Exception):
    """A benchmark has taken its command line, and is not to run."""


@pytest.fixture(scope="module")
def _importable() -> Iterator[None]:
    """The benchmarks as scripts find each other; nothing of it stays."""
    pytest.importorskip("matplotlib")
    before = set(sys.modules)
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    yield
    sys.path.remove(str(REPOSITORY / "benchmarks"))
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(REPOSITORY / "benchmarks")):
            del sys.modules[name]


def parse_benchmark(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raises _Parsed when the benchmark takes the line, SystemExit when it does not."""
    matched = _BENCHMARK.fullmatch(line)
    assert matched and Path(REPOSITORY / "benchmarks" / f"{matched[1]}.py").is_file(), line
    parse, words = argparse.ArgumentParser.parse_args, words_of(matched[2])

    def parse_only(parser: argparse.ArgumentParser) -> None:
        parse(parser, words)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    importlib.import_module(matched[1]).main()


@pytest.mark.usefixtures("_importable")
@pytest.mark.parametrize(("page", "line"), benchmark_lines())
def test_a_benchmark_is_taken(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(_Parsed):
        parse_benchmark(line, monkeypatch)


@pytest.mark.usefixtures("_importable")
def test_a_wrong_benchmark_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        parse_benchmark("python benchmarks/size.py --nonsense", monkeypatch)
