"""progress: lines off a terminal, a bar on one, nothing on standard output."""

import os
import pty
import subprocess
import sys

import pytest

import pipeline.progress
from pipeline.progress import progress
from tests.conftest import REPOSITORY

SCRIPT = """
from pipeline.progress import progress
with progress("encode", 100, "images", start=20) as advance:
    for _ in range(80):
        advance(1, "2 failed")
"""


def test_plain_lines_off_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.progress, "_SECONDS_BETWEEN_LINES", 0.0)
    with progress("encode", 10, "images", start=4) as advance:
        advance(3)
        advance(3, "1 failed")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == 2
    assert lines[0].startswith("encode: 7/10 images, ") and lines[1].startswith("encode: 10/10 images, ")
    assert lines[1].endswith("0 s left, 1 failed")
    with progress("encode", 10, "images", quiet=True) as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal() -> None:
    """A pseudo-terminal as standard error: the bar shows count and rate."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "COLUMNS": "120"}
    child = subprocess.Popen([sys.executable, "-c", SCRIPT], stderr=theirs, stdout=subprocess.PIPE, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    assert child.communicate()[0] == b"" and child.returncode == 0
    os.close(ours)
    assert "100/100" in shown.decode() and "images/s" in shown.decode() and "2 failed" in shown.decode()


def test_a_notebook_has_a_bar_where_it_can_show_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its standard error is no terminal; rich draws with ipywidgets there."""
    asked: list[str] = []

    def find(name: str) -> object:
        asked.append(name)
        return None

    monkeypatch.setattr(pipeline.progress, "find_spec", find)
    assert not pipeline.progress._in_notebook() and not asked  # no IPython, no question
    monkeypatch.setitem(sys.modules, "IPython", object())
    assert not pipeline.progress._in_notebook() and asked == ["ipywidgets"]
    monkeypatch.setattr(pipeline.progress, "find_spec", lambda name: name)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert pipeline.progress._in_notebook()
