"""Progress: a bar on a terminal, a plain line now and then elsewhere."""

import logging
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

logger = logging.getLogger("ci2p")

_SECONDS_PER_LINE = 60.0


class ProgressBar:
    """Shows the steps of a run; a context manager. Only rank 0's is `visible`."""

    def __init__(self, num_steps: int, done: int, *, visible: bool) -> None:
        """`num_steps` of the whole run, `done` of which lie behind it."""
        self._visible = visible
        self._num_steps = num_steps
        self._last_line = time.monotonic()
        console = Console(stderr=True)
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not (visible and console.is_terminal),
        )
        self._task = self._bar.add_task("training", total=num_steps, completed=done, rate="")

    def show(self, step: int, epoch: int, loss: float, images_per_s: float) -> None:
        """`step` steps of the run are done; `epoch`, counted from 1, has this mean loss and rate so far."""
        self._bar.update(
            self._task,
            completed=step,
            description=f"epoch {epoch} loss {loss:.3f}",
            rate=f"{images_per_s:.1f} images/s",
        )
        now = time.monotonic()
        if self._visible and self._bar.disable and now - self._last_line > _SECONDS_PER_LINE:
            self._last_line = now
            logger.info(
                "epoch %d, step %d of %d: loss %.3f, %.1f images/s",
                epoch,
                step,
                self._num_steps,
                loss,
                images_per_s,
            )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
