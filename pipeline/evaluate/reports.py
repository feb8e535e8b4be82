"""What `ci2p eval` and `ci2p predict` found: lines for people, JSON and tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.left_out import LeftOut, describe_left_out
from ci2p_cache.marker import Failure
from ci2p_cache.printable import counted
from pipeline.evaluate.predictions import Predictions
from pipeline.evaluate.scores import Scores
from pipeline.evaluate.tables import share, top_cells, top_columns, write_table
from pipeline.models.class_names import readable


@dataclass(frozen=True)
class EvalReport:
    """What was measured, of what, on what."""

    scores: Scores
    checkpoint: str
    measured_on: str
    seconds: float
    num_missing: int = 0  # images of the split that the folder lacks
    failures: tuple[Failure, ...] = ()  # images that were left out, under --on-error skip
    keys: Sequence[str] = ()  # of all that were to be measured
    predictions: tuple[Predictions, ...] = ()  # of those that were, by their place among the keys

    def write_csv(self, table: str) -> None:
        """key, label, prediction, probability of every image that was measured, sorted by key."""
        classes = tuple(self.scores.per_class)
        write_table(table, ("key", "label", "prediction", "probability"), sorted(self._rows(classes)))

    def _rows(self, classes: tuple[str, ...]) -> Iterator[tuple[str, str, str, str]]:
        for part in self.predictions:
            shares_B, predicted_B = part.probabilities.max(1)  # as `Scoring` takes it
            for row, place in enumerate(part.places.tolist()):
                label, predicted = int(part.labels[row]), int(predicted_B[row])
                yield self.keys[place], classes[label], classes[predicted], share(shares_B[row])

    @property
    def images_per_s(self) -> float:
        return self.scores.num_images / self.seconds

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"{self.checkpoint} on {self.measured_on}, {self.images_per_s:.1f} images/s"]
        if self.num_missing:
            lines.append(f"images of the split that are not there: {self.num_missing}")
        lines += [f"left out: {failure.key}: {failure.reason}" for failure in self.failures]
        return lines + self.scores.lines()

    def measured(self) -> dict[str, Any]:
        """For --json."""
        return self.scores.measured() | {
            "images_per_s": self.images_per_s,
            "checkpoint": self.checkpoint,
            "measured_on": self.measured_on,
            "num_missing": self.num_missing,
            "num_failed": len(self.failures),
            "failures": [failure.model_dump() for failure in self.failures],
        }


@dataclass(frozen=True)
class PredictReport:
    """What images were predicted to be, and which could not be: together all that were asked for."""

    keys: tuple[str, ...]
    probabilities: Tensor  # float32 [N, K]
    classes: tuple[str, ...]
    failures: tuple[Failure, ...]
    left_out: tuple[LeftOut, ...]  # what lies in folders besides
    num_repeated: int  # inputs that were named before

    def lines(self, top: int) -> list[str]:
        """For people: a line an image."""
        classes = list(map(readable, self.classes))
        cells = [top_cells(row, classes, top) for row in self.probabilities]
        shares = [", ".join(f"{n} {100 * float(p):.1f} %" for n, p in zip(c[::2], c[1::2], strict=True)) for c in cells]
        return [f"{key}: {line}" for key, line in zip(self.keys, shares, strict=True)]

    def notes(self) -> list[str]:
        """For people: what was not predicted, or once only; what `check` is to say alone is left to it."""
        notes = [f"{failure.key}: {failure.reason}" for failure in self.failures if self._num_asked > 1]
        if self.left_out:
            notes.append(describe_left_out(self.left_out))
        if self.num_repeated:
            notes.append(f"inputs that were named twice and predicted once: {self.num_repeated}")
        return notes

    def measured(self) -> dict[str, dict[str, float]]:
        """For --json: key -> class -> probability."""
        return {
            key: dict(zip(self.classes, row.tolist(), strict=True))
            for key, row in zip(self.keys, self.probabilities, strict=True)
        }

    def write_csv(self, table: str, top: int) -> None:
        """key, class, probability, then those of the next likeliest."""
        top = min(top, len(self.classes))
        rows = (
            [key, *top_cells(row, self.classes, top)] for key, row in zip(self.keys, self.probabilities, strict=True)
        )
        write_table(table, ["key", *top_columns(top)], rows)

    def check(self) -> None:
        """Raises WorkError when an image could not be predicted; InputError when one was asked for, and is no image."""
        if self._num_asked == 1 and self.failures:
            raise InputError(f"{self.failures[0].key}: {self.failures[0].reason}; give the path of an image file")
        if self._num_failed:
            of_all = f"{self._num_failed} of {counted(self._num_asked, 'image')}"
            raise WorkError(f"{of_all} could not be predicted; they are named above")

    @property
    def _num_failed(self) -> int:
        return len(self.failures) + sum(entry.count for entry in self.left_out if entry.pictures)

    @property
    def _num_asked(self) -> int:
        return self._num_failed + len(self.keys)
