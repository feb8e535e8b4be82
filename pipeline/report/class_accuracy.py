"""Accuracy by class, from the worst to the best."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from ci2p_cache.printable import printable
from pipeline.models.class_names import readable
from pipeline.report.look import Theme, colour, new_figure, short, style
from pipeline.report.names import words_of

MOST_BARS = 40
"""Classes, beyond which a chart has their curve, and a table not all of them."""


@dataclass(frozen=True)
class ClassRow:
    """One class of the validation split."""

    name: str
    """In words, for charts."""
    full_name: str
    num_images: int
    accuracy: float
    """Top-1 in [0, 1]."""


def rows_by_accuracy(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> tuple[list[ClassRow], list[str]]:
    """The classes with images, worst first and of equals by name; and the names of those without."""
    names = words_of(classes)
    rows, without = [], []
    for label, counts in enumerate(confusion):
        total = sum(counts)
        full_name = printable(readable(classes[label]))
        if not total:
            without.append(full_name)
            continue
        rows.append(ClassRow(names[label], full_name, total, counts[label] / total))
    return sorted(rows, key=lambda row: (row.accuracy, row.name)), without


def draw_class_accuracy(rows: Sequence[ClassRow], theme: Theme) -> Figure:
    """A bar a class, or the curve of very many."""
    shares = [100 * row.accuracy for row in rows]
    if len(rows) > MOST_BARS:
        figure = new_figure(theme, 5.4, 2.6)
        axes = figure.subplots()
        axes.fill_between(range(1, len(rows) + 1), shares, color=colour(theme, 0), alpha=0.25, linewidth=0)
        axes.plot(range(1, len(rows) + 1), shares, color=colour(theme, 0), linewidth=2)
        axes.set(xlabel="classes, from the worst to the best", ylabel="top-1, %", ylim=(0, 100), xlim=(1, len(rows)))
        style(axes, theme)
        return figure
    figure = new_figure(theme, 4.6, 0.8 + 0.26 * len(rows))
    axes = figure.subplots()
    axes.barh(range(len(rows)), shares, color=colour(theme, 0), height=0.7)
    axes.set_yticks(range(len(rows)), [short(row.name) for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel="top-1, %", xlim=(0, 100))
    style(axes, theme)
    axes.grid(visible=False, axis="y")
    return figure
