"""How charts look: two themes, colours that colour-blind readers tell apart, and a figure as SVG or PNG."""

import base64
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ci2p_cache.printable import printable

_FONT = "DejaVu Sans"  # matplotlib's own; the page's is put in its place
_PAGE_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_PNG_DPI = 160
_LONGEST_NAME = 18  # characters of a class on an axis


@dataclass(frozen=True)
class Theme:
    """Colours of a chart."""

    surface: str
    """What it stands on."""
    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]
    """Okabe and Ito's, darker on white and lighter on black."""
    ramp: tuple[str, str]
    """From nothing to all."""


LIGHT = Theme(
    surface="#ffffff",
    ink="#1a1f26",
    muted="#5a6472",
    grid="#e4e8ee",
    series=("#0072b2", "#d55e00", "#008a64", "#a8458f", "#8a6d00", "#4b5563"),
    ramp=("#f5f8fb", "#00568a"),
)
DARK = Theme(
    surface="#171c23",
    ink="#e6e9ee",
    muted="#9aa5b3",
    grid="#2b333e",
    series=("#56b4e9", "#ff9a52", "#35cfa2", "#e58fc9", "#e3c54a", "#c5ccd6"),
    ramp=("#1b222b", "#7cc8f5"),
)
DASHES = ("solid", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
"""Of the lines of one colour, once all colours are taken."""

Chart = Callable[[Theme], Figure]


def colour(theme: Theme, number: int) -> str:
    """Of the series with this number, from 0."""
    return theme.series[number % len(theme.series)]


def dash(number: int) -> Any:
    """Of the line of the series with this number, as matplotlib takes it."""
    return DASHES[number // len(LIGHT.series) % len(DASHES)]


def new_figure(theme: Theme, width: float, height: float) -> Figure:
    """Of so many inches; at 96 pixels an inch, letters are as large as the page's small ones."""
    return Figure(figsize=(width, height), layout="constrained", facecolor=theme.surface)


def style(axes: Axes, theme: Theme, *, grid: bool = True) -> None:
    """Lays a theme over axes whose data are drawn."""
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)
    axes.tick_params(colors=theme.muted, labelsize=8.5, length=0, pad=4)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=theme.muted, fontsize=8.5)
    axes.title.set(color=theme.ink, fontsize=10)
    if grid:
        axes.grid(visible=True, color=theme.grid, linewidth=0.8)
        axes.set_axisbelow(True)


def letters_on(theme: Theme, ground: tuple[float, float, float, float]) -> str:
    """Of ink and surface the one that stands out more from a colour, by WCAG's contrast."""

    def luminance(tint: Any) -> float:
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(tint))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    def contrast(tint: str) -> float:
        dark, light = sorted((luminance(tint), luminance(ground)))
        return (light + 0.05) / (dark + 0.05)

    return max((theme.ink, theme.surface), key=contrast)


def short(name: str) -> str:
    """A name as it fits an axis."""
    name = printable(name)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def as_svg(chart: Chart, theme: Theme) -> str:
    """A data URI of the chart on a clear ground, its letters in the page's font. The same chart gives the same text."""
    with _drawing():
        figure = chart(theme)
        file = BytesIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue().decode().replace(f"'{_FONT}'", _PAGE_FONTS)
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode('ascii')}"


def as_png(chart: Chart, title: str = "") -> bytes:
    """The chart on white, under a title."""
    with _drawing():
        figure = chart(LIGHT)
        if title:
            figure.suptitle(printable(title), fontsize=10.5, color=LIGHT.ink)
        file = BytesIO()
        figure.savefig(file, format="png", dpi=_PNG_DPI, metadata={"Software": None})
    return file.getvalue()


@contextmanager
def _drawing() -> Iterator[None]:
    """matplotlib's settings for the time: those of the user's matplotlibrc would make another picture.

    Names of classes are anybody's: a dollar begins no formula, and a letter that the font lacks is the browser's.
    """
    own: dict[Any, Any] = {
        "font.family": [_FONT],
        "font.size": 9,
        "svg.fonttype": "none",
        "svg.hashsalt": "ci2p",
        "text.parse_math": False,
        "text.usetex": False,
        "axes.unicode_minus": True,
    }
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(own)
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield
