"""Weights & Biases. WANDB_MODE=offline keeps all in the run folder's wandb/, which `wandb sync` sends later."""

import os
from collections.abc import Mapping

from pipeline.train.loggers.logged_run import PROJECT, Logged

_PATIENCE_S = 60  # with a service that does not answer, at the beginning and at the end


class WandbRun:
    """A run of wandb's."""

    def __init__(self, logged: Logged, run_id: str | None) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", logged.run.name),
            id=run_id or logged.key,
            resume="allow",
            dir=logged.run,
            config=dict(logged.config),
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=_PATIENCE_S,
                finish_timeout=_PATIENCE_S,
                login_timeout=_PATIENCE_S,
            ),
        )
        self.id = str(self._run.id)
        # Offline it does not know what it was told before.
        self.last_step = None if self._run.offline else max(self._run.step - 1, 0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)
