"""Reliability diagram: how often the model is right when it says how sure it is."""

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from pipeline.evaluate.scores import NUM_CALIBRATION_BINS, CalibrationBins
from pipeline.report.look import Theme, colour, new_figure, style


def draw_reliability(bins: CalibrationBins, theme: Theme) -> Figure:
    """Accuracy of each bin of confidence, its gap to the confidence hatched; under it how many images are in each."""
    drawn = _drawn(bins)
    is_filled = drawn[0] > 0
    count, confidence, accuracy = (values[is_filled].tolist() for values in drawn)
    width = 1 / NUM_CALIBRATION_BINS
    centres = ((torch.nonzero(is_filled)[:, 0] + 0.5) * width).tolist()
    figure = new_figure(theme, 3.9, 3.7)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    gaps = [sure - right for sure, right in zip(confidence, accuracy, strict=True)]
    upper.bar(centres, accuracy, width * 0.9, color=colour(theme, 0), label="accuracy")
    upper.bar(
        centres, gaps, width * 0.9, bottom=accuracy, label="gap to the confidence", linewidth=1, hatch="////",
        facecolor=theme.surface, edgecolor=colour(theme, 1),
    )  # fmt: skip
    upper.plot([0, 1], [0, 1], color=theme.muted, linewidth=1, linestyle=(0, (4, 3)))
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    upper.legend(
        frameon=False, fontsize=8.5, labelcolor=theme.muted, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2
    )
    total = max(1.0, sum(count))
    lower.bar(centres, [number / total for number in count], width * 0.9, color=theme.muted)
    lower.set(xlabel="confidence", ylabel="images")
    for axis in (upper.xaxis, upper.yaxis, lower.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    style(upper, theme)
    style(lower, theme)
    return figure


def _drawn(bins: CalibrationBins) -> tuple[Tensor, Tensor, Tensor]:
    """Count, confidence and accuracy with the bin of exactly 1, which has no width, in its neighbour."""
    count = bins.count[:-1].clone()
    count[-1] += bins.count[-1]
    means = []
    for values in (bins.confidence, bins.accuracy):
        sums = values * bins.count
        merged = sums[:-1].clone()
        merged[-1] += sums[-1]
        means.append(torch.nan_to_num(merged / count))
    return count, means[0], means[1]
