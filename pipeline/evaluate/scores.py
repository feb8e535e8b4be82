"""Scores of predictions: accuracy, accuracy by class, calibration. Legend: B batch, K classes."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
)

_TOP_K = 5
_CALIBRATION_BINS = 15


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
            f"calibration error {100 * self.ece:.2f} %, {self.num_images} images"
        ]
        width = max(map(len, self.per_class))
        for name, share in self.per_class.items():
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
        num_classes = len(classes)
        self._classes = classes
        self._metrics = MetricCollection(
            {
                "top1": MulticlassAccuracy(num_classes, average="micro"),
                "top5": MulticlassAccuracy(num_classes, top_k=min(_TOP_K, num_classes), average="micro"),
                "ece": MulticlassCalibrationError(num_classes, n_bins=_CALIBRATION_BINS, norm="l1"),
                "confusion": MulticlassConfusionMatrix(num_classes),
            },
            compute_groups=False,
        )

    def add(self, probabilities_BK: Tensor, labels_B: Tensor) -> None:
        """Probabilities float32 [B, K] that sum to 1, labels int64 [B], both on the CPU."""
        self._metrics.update(probabilities_BK, labels_B)

    def scores(self) -> Scores:
        values = self._metrics.compute()
        confusion = values["confusion"].long().tolist()
        per_class = {
            name: row[label] / sum(row) if sum(row) else None
            for label, (name, row) in enumerate(zip(self._classes, confusion, strict=True))
        }
        return Scores(
            top1=float(values["top1"]),
            top5=float(values["top5"]),
            ece=float(values["ece"]),
            per_class=per_class,
            confusion=confusion,
            num_images=sum(map(sum, confusion)),
        )
