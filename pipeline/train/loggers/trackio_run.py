"""Trackio: a file in TRACKIO_DIR, which `trackio show` shows, or the Space of TRACKIO_SPACE_ID."""

import io
import os
from collections.abc import Mapping
from contextlib import redirect_stdout

from pipeline.train.loggers.logged_run import PROJECT, Logged


class TrackioRun:
    """A run of Trackio's, which finds one by its name."""

    def __init__(self, logged: Logged, run_id: str | None) -> None:
        import trackio

        self.id = run_id or f"{logged.run.name}-{logged.key}"
        with redirect_stdout(io.StringIO()):  # which is ours: --json -
            self._run = trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", PROJECT),
                name=self.id,
                config=dict(logged.config),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        # It writes behind our back, so that a kill may lose what it was told; it counts on from what it has.
        following: int | None = getattr(self._run, "_next_step", None)
        self.last_step = None if following is None else max(following - 1, 0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self, *, finished: bool) -> None:
        with redirect_stdout(io.StringIO()):
            self._run.finish()
