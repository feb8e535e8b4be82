"""Confusion matrix: what each class is taken for. Legend: K classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.report.look import Theme, letters_on, new_figure, short, style
from pipeline.report.names import words_of

_MOST_COUNTED = 12  # classes, up to which a cell says its number
_MOST_NAMED = 30  # classes, up to which the axes name them
_MOST_CELLS = 200  # rows, for there are no more pixels
_POINTS_HIGH = 180  # of which the names may take all


@dataclass(frozen=True)
class Confused:
    """Images of one class that were taken for another."""

    label: str
    taken_for: str
    count: int
    of: int
    """Images of the class."""


def most_confused(confusion: Sequence[Sequence[int]], classes: Sequence[str], most: int) -> list[Confused]:
    """The pairs of classes with the most mistakes; of equally many the first."""
    counts_KK = np.array(confusion)
    names, totals = words_of(classes), counts_KK.sum(1)
    np.fill_diagonal(counts_KK, 0)
    order = np.argsort(-counts_KK, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(classes)) for place in order]
    return [
        Confused(names[row], names[column], int(counts_KK[row, column]), int(totals[row]))
        for row, column in pairs
        if counts_KK[row, column]
    ]


def draw_confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str], theme: Theme) -> Figure:
    """A row a class, coloured by the share of its images, from none to all; numbers are images."""
    counts_KK: NDArray[np.int64] = np.array(confusion)
    shares_KK = counts_KK / np.maximum(counts_KK.sum(1, keepdims=True), 1)
    K = len(classes)
    figure = new_figure(theme, 3.9, 3.7)
    axes = figure.subplots()
    ramp = LinearSegmentedColormap.from_list("share", theme.ramp)
    drawn, side = pooled(shares_KK, _MOST_CELLS)
    edges = np.minimum(np.arange(len(drawn) + 1) * side, K)
    axes.pcolormesh(
        edges, edges, drawn, cmap=ramp, vmin=0, vmax=1, rasterized=K > _MOST_NAMED,
        edgecolors=theme.surface if K <= _MOST_COUNTED else "none", linewidth=1.5 if K <= _MOST_COUNTED else 0,
    )  # fmt: skip
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_xlabel("predicted" if side == 1 else f"predicted; a dot is the largest share of {side} × {side}")
    axes.set_ylabel("label")
    if K <= _MOST_COUNTED:
        points = 10 if K <= 6 else 7.5
        for row, column in np.ndindex(K, K):
            if counts_KK[row, column]:
                tint = letters_on(theme, ramp(shares_KK[row, column]))
                text = str(counts_KK[row, column])
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=tint, fontsize=points)
    style(axes, theme, grid=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if K <= _MOST_NAMED:
        names, size = list(map(short, words_of(classes))), min(8.5, _POINTS_HIGH / K)
        axes.set_xticks(np.arange(K) + 0.5, names, rotation=90, fontsize=size)
        axes.set_yticks(np.arange(K) + 0.5, names, fontsize=size)
    return figure


def pooled(shares_KK: NDArray[np.float64], most: int) -> tuple[NDArray[np.float64], int]:
    """At most so many rows and columns, each cell the largest of a square of them, and the square's side.

    A thin diagonal would else be lost between the pixels.
    """
    K = len(shares_KK)
    side = -(-K // most)
    if side == 1:
        return shares_KK, 1
    cells = -(-K // side)
    padded = np.zeros((cells * side, cells * side))
    padded[:K, :K] = shares_KK
    return padded.reshape(cells, side, cells, side).max((1, 3)), side
