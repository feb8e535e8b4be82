"""Scores of predictions: accuracy, accuracy by class, calibration. Legend: B batch, K classes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ci2p_cache.printable import counted
from pipeline.models.class_names import readable
from pipeline.train.validation import right_predictions

NUM_CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Scores:
    """All shares in [0, 1]."""

    top1: float
    top5: float  # among the five likeliest classes; all of them, if fewer
    ece: float  # expected calibration error, 15 equal bins, mean absolute difference
    per_class: dict[str, float | None]  # top-1 of each class; None for a class without samples
    confusion: list[list[int]]  # [K][K], row: the label, column: the prediction
    num_images: int

    def lines(self) -> list[str]:
        """For people."""
        rows = [
            f"top-1 {100 * self.top1:.2f} %, top-5 {100 * self.top5:.2f} %, "
            f"calibration error {100 * self.ece:.2f} %, {counted(self.num_images, 'image')}"
        ]
        names = list(map(readable, self.per_class))
        width = max(map(len, names))
        for name, share in zip(names, self.per_class.values(), strict=True):
            rows.append(f"  {name:<{width}}  " + ("no images" if share is None else f"{100 * share:6.2f} %"))
        return rows

    def measured(self) -> dict[str, Any]:
        """For --json."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "ece": self.ece,
            "per_class": self.per_class,
            "confusion": self.confusion,
            "num_images": self.num_images,
        }


class Scoring:
    """Adds up batches of predictions into Scores."""

    def __init__(self, classes: tuple[str, ...]):
        self._classes = classes
        self._confusion_KK = torch.zeros(len(classes), len(classes), dtype=torch.int64)
        self._num_among_five = 0
        self._confidences: list[Tensor] = []
        self._is_right: list[Tensor] = []

    def add(self, probabilities_BK: Tensor, labels_B: Tensor) -> None:
        """Probabilities float32 [B, K] that sum to 1, labels int64 [B], both on the CPU."""
        confidences_B, predicted_B = probabilities_BK.max(1)
        is_right_B, is_among_B = right_predictions(probabilities_BK, labels_B)
        self._confusion_KK.index_put_((labels_B, predicted_B), torch.ones_like(labels_B), accumulate=True)
        self._num_among_five += int(is_among_B.sum())
        self._confidences.append(confidences_B)
        self._is_right.append(is_right_B)

    def scores(self) -> Scores:
        confusion = self._confusion_KK.tolist()
        num_images = sum(map(sum, confusion))
        per_class = {
            name: row[label] / sum(row) if sum(row) else None
            for label, (name, row) in enumerate(zip(self._classes, confusion, strict=True))
        }
        return Scores(
            top1=_share(int(self._confusion_KK.trace()), num_images),
            top5=_share(self._num_among_five, num_images),
            ece=calibration_bins(torch.cat(self._confidences), torch.cat(self._is_right)).error,
            per_class=per_class,
            confusion=confusion,
            num_images=num_images,
        )


def _share(count: int, of: int) -> float:
    """In float32, as every published figure of ci2p was."""
    return float(torch.tensor(count) / torch.tensor(of))


@dataclass(frozen=True)
class CalibrationBins:
    """Predictions by their confidence: 15 equal bins of [0, 1], and one for a confidence of exactly 1."""

    count: Tensor  # float32 [bins]
    confidence: Tensor  # float32 [bins], its mean; 0 of an empty bin
    accuracy: Tensor  # float32 [bins], the share that was right; 0 of an empty bin

    @property
    def error(self) -> float:
        """Expected calibration error (Guo et al. 2017, equation 3): the gap between a bin's accuracy and its
        confidence, weighted by how many predictions fall into the bin.
        """
        return float(((self.accuracy - self.confidence).abs() * (self.count / self.count.sum())).sum())


def calibration_bins(confidences_N: Tensor, is_right_N: Tensor) -> CalibrationBins:
    """Sorts predictions, float32 [N] and bool [N], into bins. A bin holds its lower edge, and the last one 1 alone."""
    edges = torch.linspace(0, 1, NUM_CALIBRATION_BINS + 1)
    bin_N = torch.bucketize(confidences_N, edges, right=True) - 1
    count, confidence, accuracy = (
        torch.zeros(len(edges)).scatter_add_(0, bin_N, values)
        for values in (torch.ones_like(confidences_N), confidences_N, is_right_N.float())
    )
    return CalibrationBins(count, torch.nan_to_num(confidence / count), torch.nan_to_num(accuracy / count))
