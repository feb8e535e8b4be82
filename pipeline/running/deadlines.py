"""Deadlines: when a checkpoint is due and when the time is up, by the clock of rank 0."""

import time

# What may be lost without a thought, and how many times as long as its own writing a checkpoint must be away from the
# last one: at most a twentieth of the time goes into writing.
_LEAST_SECONDS = 5.0
_TIMES_ITS_WRITING = 20


class Deadlines:
    """Two clocks. Only rank 0's answers count; the loop passes them on to the others."""

    def __init__(self, *, checkpoint_every_minutes: float, max_minutes: float | None) -> None:
        """`max_minutes` counts from now; None is no limit."""
        now = time.monotonic()
        self._checkpoint_seconds = 60 * checkpoint_every_minutes
        self._saved = now
        self._end = None if max_minutes is None else now + 60 * max_minutes

    def saved(self) -> None:
        """A checkpoint has just been written."""
        self._saved = time.monotonic()

    @property
    def checkpoint_is_due(self) -> bool:
        return time.monotonic() - self._saved > self._checkpoint_seconds

    def epoch_is_due(self, writing_seconds: float) -> bool:
        """Whether a checkpoint is worth its writing, which took so long the last time, where an epoch ends anyway."""
        return time.monotonic() - self._saved > max(_LEAST_SECONDS, _TIMES_ITS_WRITING * writing_seconds)

    @property
    def time_is_up(self) -> bool:
        return self._end is not None and time.monotonic() > self._end
