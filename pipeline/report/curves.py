"""Learning curves: settings laid over one another, the runs of one as their mean and the band that they fill."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ci2p_cache.printable import printable
from pipeline.report.look import Theme, colour, dash, new_figure, style
from pipeline.report.settings import Setting

_FEW_EPOCHS = 30  # up to which every one has a dot


@dataclass(frozen=True)
class Panel:
    """One chart: a figure of metrics.jsonl against the epochs."""

    name: str
    title: str
    field: str
    scale: float = 1.0
    besides: str | None = None
    """A second figure, drawn faint and dotted."""
    note: str = ""

    def is_empty(self, settings: Sequence[Setting]) -> bool:
        fields = [self.field] if self.besides is None else [self.field, self.besides]
        lines = [line for setting in settings for run in setting.runs for line in run.lines]
        return not any(_has(line, field) for line in lines for field in fields)


PANELS = (
    Panel("loss", "Loss", "val_loss", besides="train_loss", note="solid: validation; dotted: training, as augmented"),
    Panel("top1", "Top-1, %", "val_top1", 100.0, note="share of the validation images, in %"),
    Panel("lr", "Learning rate", "lr", note="of each epoch's last step"),
)


@dataclass(frozen=True)
class Curve:
    """A figure over the epochs, of the runs of one setting."""

    runs: tuple[tuple[list[int], list[float]], ...]
    """Epochs and values of each."""
    epochs: list[int]
    """That all runs have."""
    mean: list[float]
    lowest: list[float]
    highest: list[float]


def curve_of(setting: Setting, field: str, scale: float = 1.0) -> Curve:
    """Mean, lowest and highest over the epochs that every run of a setting that has any has; none is made up."""
    runs = []
    for run in setting.runs:
        points = [(line["epoch"], scale * line[field]) for line in run.lines if _has(line, field)]
        if points:
            runs.append(([epoch for epoch, _ in points], [value for _, value in points]))
    tables = [dict(zip(epochs, values, strict=True)) for epochs, values in runs]
    epochs = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
    columns = [[table[epoch] for table in tables] for epoch in epochs]
    mean = [sum(column) / len(column) for column in columns]
    return Curve(tuple(runs), epochs, mean, list(map(min, columns)), list(map(max, columns)))


def draw_panel(panel: Panel, settings: Sequence[Setting], theme: Theme) -> Figure:
    """One panel by itself, as wide as a telephone."""
    figure = new_figure(theme, 3.7, 2.6)
    _draw(figure.subplots(), panel, settings, theme)
    return figure


def draw_panels(settings: Sequence[Setting], theme: Theme) -> Figure:
    """All panels side by side, over a legend."""
    figure = new_figure(theme, 11, 3.1 + 0.22 * (len(settings) if len(settings) > 1 else 0))
    for axes, panel in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        _draw(axes, panel, settings, theme)
        axes.set_title(panel.title, color=theme.ink, fontsize=10, loc="left")
    lines = [Line2D([], [], color=colour(theme, n), linestyle=dash(n), linewidth=2) for n in range(len(settings))]
    labels = [printable(setting.legend) for setting in settings]
    lines += [Line2D([], [], color=theme.muted, linewidth=1.2, linestyle=":", alpha=0.9)]
    labels += ["training loss, as augmented"]
    figure.legend(lines, labels, loc="outside lower left", frameon=False, fontsize=8.5, labelcolor=theme.ink)
    return figure


def _draw(axes: Axes, panel: Panel, settings: Sequence[Setting], theme: Theme) -> None:
    for number, setting in enumerate(settings):
        tint, line_style = colour(theme, number), dash(number)
        if panel.besides is not None:
            _lines(axes, curve_of(setting, panel.besides, panel.scale), tint, ":", 1.2, alpha=0.9)
        _lines(axes, curve_of(setting, panel.field, panel.scale), tint, line_style, 2.0)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    epochs = [line["epoch"] for setting in settings for run in setting.runs for line in run.lines]
    if len(set(epochs)) == 1:
        axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    style(axes, theme)


def _lines(axes: Axes, curve: Curve, tint: str, line_style: Any, width: float, *, alpha: float = 1.0) -> None:
    if not curve.runs:
        return
    if len(curve.runs) > 1:
        axes.fill_between(curve.epochs, curve.lowest, curve.highest, color=tint, alpha=0.18, linewidth=0)
        for epochs, values in curve.runs:
            if len(epochs) > len(curve.epochs):  # it goes on alone
                axes.plot(epochs, values, color=tint, linewidth=0.8, alpha=0.45)
        epochs, values = curve.epochs, curve.mean
    else:
        epochs, values = curve.runs[0]
    is_besides = line_style == ":"
    marker = "o" if len(epochs) <= (1 if is_besides else _FEW_EPOCHS) else None
    drawn: dict[str, Any] = {"marker": marker, "ms": 3.5, "mfc": "none" if is_besides else tint}
    axes.plot(epochs, values, color=tint, linestyle=line_style, linewidth=width, alpha=alpha, **drawn)


def _has(line: dict[str, Any], field: str) -> bool:
    return isinstance(line.get(field), int | float)
