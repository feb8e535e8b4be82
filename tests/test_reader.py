"""Whoever reads the output may go away: `ci2p ... | head -1`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cli
from tests.conftest import REPOSITORY

_ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPOSITORY)}


def unread(*arguments: str | Path, cwd: Path) -> "tuple[int, str]":
    """(exit status, standard error) of `ci2p ARGUMENTS` whose standard output nobody reads."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ci2p", *map(str, arguments)],
            stdout=write_end,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env=_ENVIRONMENT,
            timeout=240,
        )
    finally:
        os.close(write_end)
    return done.returncode, done.stderr


@pytest.mark.parametrize("arguments", [("recipes",), ("recipes", "show", "best"), ("encode", "--help"), ("-V",), ()])
def test_nothing_is_said_to_nobody(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert unread(*arguments, cwd=tmp_path) == (141, "")


def test_the_json_is_written_all_the_same(zarr_cache: Path, tmp_path: Path) -> None:
    """A sound cache that is verified and a damaged one end alike, so that 1 goes on meaning damage."""
    assert unread("verify", zarr_cache, "--json", "found.json", cwd=tmp_path) == (141, "")
    assert json.loads((tmp_path / "found.json").read_text()) == {"train": [], "val": []}


def test_a_reader_of_the_first_line_alone_gets_it(tmp_path: Path) -> None:
    command = f"set -o pipefail; {sys.executable} -m ci2p recipes show best | head -1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, env=_ENVIRONMENT, timeout=240
    )
    assert len(done.stdout.splitlines()) == 1 and done.stderr == "" and done.returncode in (0, 141)


def test_any_other_broken_pipe_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*arguments: object, **settings: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(cli.main.commands["checks"], "callback", broken)
    with pytest.raises(SystemExit) as ended:
        cli.main(["checks"])
    assert ended.value.code == 1 and "Error: Broken pipe" in capsys.readouterr().err
