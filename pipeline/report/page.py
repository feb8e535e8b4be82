"""The page: runs, what was measured of them and their charts, laid into page.html.jinja.

Names in it are anybody's: the template escapes whatever it is given, and the page forbids itself any request.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ci2p_cache.printable import counted, printable
from pipeline.report.class_accuracy import MOST_BARS, ClassRow, rows_by_accuracy
from pipeline.report.confusion import Confused, most_confused
from pipeline.report.look import DARK, LIGHT, Chart, as_svg, colour
from pipeline.report.measured import Measured
from pipeline.report.repeat import repeat_command
from pipeline.report.run_record import RunRecord
from pipeline.report.settings import Setting, data_name, shown

_MOST_PAIRS = 10
_MOST_SHOWN = 12  # of the worst classes and of the best, where there are very many
_Z = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class DrawnChart:
    """One chart of the page in both themes, as data URIs."""

    light: str
    dark: str
    alt: str


@dataclass(frozen=True)
class LegendEntry:
    """A setting's colours, and its name."""

    light: str
    dark: str
    is_dashed: bool
    label: str


@dataclass(frozen=True)
class RunSection:
    """What the page says of one run."""

    run: RunRecord
    measured: Measured
    charts: dict[str, DrawnChart]
    """By name: "confusion", "reliability", "classes"; what could not be measured is not there."""
    label: str
    """Of the run among those of the page."""

    @property
    def title(self) -> str:
        return printable(self.label)

    @property
    def command(self) -> str:
        return printable(repeat_command(self.run))

    @property
    def facts(self) -> dict[str, str]:
        """For people, in order."""
        config, run = self.run.config, self.run
        machine = config.machine or f"{config.device}; its name was not kept"
        processes = f", {counted(config.world_size, 'process')}" if config.world_size > 1 else ""
        facts = {
            "Model": config.recipe.model,
            "Trained on": f"{config.data.path}: {counted(len(config.data.classes), 'class')}",
            "Input": " × ".join(map(str, config.data.input_shape)),
            "State": run.state,
            "Machine": machine + processes,
            "Precision": config.recipe.precision,
            "Time": duration(run.seconds),
            "Images/s": "not known" if run.images_per_s is None else number(run.images_per_s),
            "Folder": str(run.path),
            "Made by": ", ".join(f"{name} {version}" for name, version in config.versions.items()),
        }
        if self.measured.measured_on:
            facts["Measured on"] = self.measured.measured_on
        return {name: printable(value) for name, value in facts.items()}

    @property
    def recipe(self) -> dict[str, str]:
        """Every setting."""
        return {name: printable(shown(value)) for name, value in self.run.config.recipe.model_dump().items()}

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the measured top-1."""
        scores = self.measured.scores
        return None if scores is None else interval_of(scores.top1, scores.num_images)

    @property
    def classes(self) -> list[ClassRow]:
        scores = self.measured.scores
        return [] if scores is None else rows_by_accuracy(scores.confusion, self.run.config.data.classes)[0]

    @property
    def classes_without(self) -> list[str]:
        scores = self.measured.scores
        return [] if scores is None else rows_by_accuracy(scores.confusion, self.run.config.data.classes)[1]

    @property
    def confused(self) -> list[Confused]:
        scores = self.measured.scores
        return [] if scores is None else most_confused(scores.confusion, self.run.config.data.classes, _MOST_PAIRS)


def draw(chart: Chart, alt: str) -> DrawnChart:
    """A chart in both themes; `alt` says in words what it shows."""
    return DrawnChart(as_svg(chart, LIGHT), as_svg(chart, DARK), alt)


def legend_of(settings: Sequence[Setting]) -> list[LegendEntry]:
    """An entry a setting, in the order of their colours."""
    return [
        LegendEntry(colour(LIGHT, n), colour(DARK, n), n >= len(LIGHT.series), printable(setting.legend))
        for n, setting in enumerate(settings)
    ]


def render_page(
    sections: Sequence[RunSection],
    settings: Sequence[Setting],
    curves: Sequence[tuple[str, str, DrawnChart | None]],
    *,
    written: datetime,
) -> str:
    """The whole page. `curves` are title, note and chart of each panel, None where there is nothing to draw yet."""
    environment = Environment(
        loader=PackageLoader("pipeline.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "number": number,
        "duration": duration,
        "size": size,
        "data_uri": lambda jpeg: f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}",
    }
    return environment.get_template("page.html.jinja").render(
        sections=sections,
        settings=settings,
        curves=curves,
        legend=legend_of(settings),
        title=_title(sections, settings),
        caches=_caches(sections),
        rows=_setting_rows(sections, settings),
        most_classes=MOST_BARS,
        most_shown=_MOST_SHOWN,
        written=written.strftime("%Y-%m-%d %H:%M UTC"),
        version=metadata.version("ci2p"),
    )


def _title(sections: Sequence[RunSection], settings: Sequence[Setting]) -> str:
    data = sorted({data_name(section.run) for section in sections})
    what = settings[0].runs[0].config.recipe.model if len(settings) == 1 else counted(len(settings), "setting")
    return printable(f"{what} on {data[0] if len(data) == 1 else counted(len(data), 'data set')}")


def _caches(sections: Sequence[RunSection]) -> list[tuple[str, Any]]:
    """Each cache once, with its name."""
    found = {section.run.config.data.fingerprint: section for section in reversed(sections) if section.measured.cache}
    return [(printable(data_name(section.run)), section.measured.cache) for section in reversed(found.values())]


@dataclass(frozen=True)
class SettingRow:
    """A setting in the table of several runs."""

    label: str
    sections: tuple[RunSection, ...]
    count: int
    """Runs that were evaluated, of which the rest is."""
    mean_top1: float | None
    lowest: float | None
    highest: float | None


def _setting_rows(sections: Sequence[RunSection], settings: Sequence[Setting]) -> list[SettingRow]:
    rows = []
    for setting in settings:
        own = tuple(section for section in sections if section.run in setting.runs)
        best = [float(section.run.best["val_top1"]) for section in own if section.run.best is not None]
        mean = sum(best) / len(best) if best else None
        label = printable(setting.label)
        rows.append(SettingRow(label, own, len(best), mean, min(best, default=None), max(best, default=None)))
    return rows


def interval_of(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of so many."""
    centre = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def percent(share: float | None, digits: int = 1) -> str:
    """ "71.3 %", with a space that no line breaks at."""
    return "–" if share is None else f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def number(value: float | None) -> str:
    """Four digits and thousands: "1,234", "56.78"."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:.4g}"


def duration(seconds: float) -> str:
    """ "3 h 12 min", "4 min 5 s", "7.1 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(num_bytes: float) -> str:
    """ "812 B", "12.3 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"
