"""Figures of several seeds, as tables have them."""

import statistics
from collections.abc import Sequence


def mean_and_deviation(values: Sequence[float]) -> str:
    """The mean and, of more than one, the standard deviation."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{deviation}"
