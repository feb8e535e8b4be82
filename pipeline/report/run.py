"""`ci2p report`: read the runs, measure them, draw, write one page and, if asked, its charts as PNG."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from ci2p_cache.errors import InputError
from ci2p_cache.printable import counted
from ci2p_cache.publish import publish, write_output
from pipeline.report.calibration import draw_reliability
from pipeline.report.class_accuracy import draw_class_accuracy, rows_by_accuracy
from pipeline.report.confusion import draw_confusion
from pipeline.report.curves import PANELS, draw_panel, draw_panels
from pipeline.report.look import Chart, as_png
from pipeline.report.measured import Measured, measure
from pipeline.report.page import DrawnChart, RunSection, draw, percent, render_page
from pipeline.report.run_record import RunRecord, labels_of, read_run
from pipeline.report.settings import Setting, group_by_setting
from pipeline.train.run_folder import newest_run, writing_to

logger = logging.getLogger("ci2p")

PAGE = "report.html"
_LONG_WORDS = {
    "confusion": "Confusion matrix",
    "reliability": "Reliability",
    "classes": "Accuracy by class",
}


@dataclass(frozen=True)
class WrittenReport:
    """What was written, and what could not be said."""

    page: Path
    num_bytes: int
    pictures: tuple[Path, ...]
    runs: tuple[str, ...]
    missing: tuple[str, ...]

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"missing: {each}" for each in self.missing]
        if self.pictures:
            lines.append(f"{self.pictures[0].parent}: {', '.join(path.name for path in self.pictures)}")
        return [*lines, f"{self.page}: {counted(len(self.runs), 'run')}, {self.num_bytes / 1e6:.1f} MB"]

    def measured(self) -> dict[str, Any]:
        """For --json."""
        return {
            "page": str(self.page),
            "bytes": self.num_bytes,
            "pictures": list(map(str, self.pictures)),
            "runs": list(self.runs),
            "missing": list(self.missing),
        }


def write_report(
    runs: Sequence[str],
    *,
    out: Path | None = None,
    png: Path | None = None,
    shards: str | None = None,
    weights: str = "bundled",
    device: str = "auto",
    workers: int | None = None,
) -> WrittenReport:
    """Writes a page of runs (the newest under runs/ by default) to `out`: report.html in the run, of several here.

    Raises InputError for what is no run or named twice, WorkError for a damaged one. What is gone besides (a cache, the
    weights) leaves its part of the page out, which says so.
    """
    paths = [Path(run) for run in runs] or [newest_run()]
    twice = next((path for at, path in enumerate(paths) if path.resolve() in [p.resolve() for p in paths[:at]]), None)
    if twice is not None:
        raise InputError(f"{twice} is named twice; name every run once")
    page = out or (paths[0] / PAGE if len(paths) == 1 else Path(PAGE))
    if page.is_dir():
        raise InputError(f"--out {page} is a folder; give the name of a file, as in --out {page / PAGE}")
    records = [read_run(path) for path in paths]
    if png is not None:  # before minutes of work
        with writing_to(png):
            png.mkdir(parents=True, exist_ok=True)
    settings = group_by_setting(records)
    sections = []
    charts: dict[str, tuple[Chart, str]] = {"curves": (partial(draw_panels, settings), "")}
    for record, label in zip(records, labels_of(records), strict=True):
        measured = measure(record, shards=shards, weights=weights, device=device, workers=workers)
        own = _charts_of(record, measured)
        drawn = {name: draw(own[name], _alt(name, measured)) for name in own}
        sections.append(RunSection(record, measured, drawn, label))
        suffix = f"-{label.replace('/', '-')}" if len(records) > 1 else ""
        charts |= {f"{name}{suffix}": (chart, _png_title(name, label, measured)) for name, chart in own.items()}
    html = render_page(sections, settings, _curves(settings), written=datetime.now(UTC)).encode()
    pictures = []
    if png is not None:
        with writing_to(png):
            for name, (chart, title) in charts.items():
                publish(png / f"{name}.png", as_png(chart, title))
                pictures.append(png / f"{name}.png")
    with writing_to(page):
        page.parent.mkdir(parents=True, exist_ok=True)
        write_output(page, html)
    missing = [
        f"{section.run.path}: {each}" if len(sections) > 1 else each
        for section in sections
        for each in section.measured.missing
    ]
    return WrittenReport(page, len(html), tuple(pictures), tuple(map(str, paths)), tuple(missing))


def _charts_of(run: RunRecord, measured: Measured) -> dict[str, Chart]:
    if measured.scores is None or measured.bins is None:
        return {}
    classes, confusion = run.config.data.classes, measured.scores.confusion
    return {
        "confusion": partial(draw_confusion, confusion, classes),
        "reliability": partial(draw_reliability, measured.bins),
        "classes": partial(draw_class_accuracy, rows_by_accuracy(confusion, classes)[0]),
    }


def _curves(settings: Sequence[Setting]) -> list[tuple[str, str, DrawnChart | None]]:
    panels = []
    for panel in PANELS:
        drawn = None
        if not panel.is_empty(settings):
            drawn = draw(partial(draw_panel, panel, settings), f"{panel.title} against the epochs, {panel.note}")
        panels.append((panel.title, panel.note, drawn))
    return panels


def _alt(name: str, measured: Measured) -> str:
    scores = measured.scores
    assert scores is not None
    return {
        "confusion": f"Confusion matrix of {len(scores.confusion)} classes and {scores.num_images} images",
        "reliability": f"Reliability diagram, expected calibration error {percent(scores.ece)}",
        "classes": "Top-1 of the classes, sorted; the table has the same figures",
    }[name]


def _png_title(name: str, label: str, measured: Measured) -> str:
    scores = measured.scores
    assert scores is not None
    figure = f"ECE {percent(scores.ece)}" if name == "reliability" else f"top-1 {percent(scores.top1)}"
    return f"{_LONG_WORDS[name]}, {label}: {figure}, {scores.num_images:,} images"
