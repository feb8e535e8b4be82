"""Progress of long work: a bar on a terminal, a plain line now and then otherwise. Nothing of it goes to stdout."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Protocol

_SECONDS_BETWEEN_LINES = 30.0


class Advance(Protocol):
    """Call it with how many more are done, and what to show beside the rate."""

    def __call__(self, done: int, note: str = "") -> None: ...


@contextmanager
def progress(what: str, total: int, unit: str, *, start: int = 0, quiet: bool = False) -> Iterator[Advance]:
    """Shows how `total` units get done, `start` of them already, with rate and time left; `quiet` shows nothing."""
    if quiet:
        yield lambda done, note="": None
    elif sys.stderr.isatty() or _in_notebook():
        with _bar(what, total, unit, start) as advance:
            yield advance
    else:
        yield _lines(what, total, unit, start)


def _in_notebook() -> bool:
    """Whether this is a notebook that can show a bar, by ipywidgets; its kernel's standard error is no terminal."""
    if "IPython" not in sys.modules or find_spec("ipywidgets") is None:
        return False
    from rich.console import Console

    return Console().is_jupyter


@contextmanager
def _bar(what: str, total: int, unit: str, start: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=not _in_notebook())) as bars:
        task = bars.add_task(what, total=total, completed=start, rate="", note="")
        begin, sum_done = time.monotonic(), 0

        def advance(done: int, note: str = "") -> None:
            nonlocal sum_done
            sum_done += done
            rate = sum_done / max(time.monotonic() - begin, 1e-9)
            bars.update(task, advance=done, rate=f"{rate:.1f} {unit}/s", note=note)

        yield advance


def _lines(what: str, total: int, unit: str, start: int) -> Advance:
    begin = last = time.monotonic()
    sum_done = 0

    def advance(done: int, note: str = "") -> None:
        nonlocal sum_done, last
        sum_done += done
        now = time.monotonic()
        finished = start + sum_done >= total
        if now - last < _SECONDS_BETWEEN_LINES and not finished:
            return
        last = now
        rate = sum_done / max(now - begin, 1e-9)
        left = (total - start - sum_done) / max(rate, 1e-9)
        line = f"{what}: {start + sum_done}/{total} {unit}, {rate:.1f} {unit}/s, {left:.0f} s left"
        sys.stderr.write(line + (f", {note}" if note else "") + "\n")
        sys.stderr.flush()

    return advance
