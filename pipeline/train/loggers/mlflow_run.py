"""MLflow: the server of MLFLOW_TRACKING_URI, or where there is none MLflow's own file in the current folder."""

import os
import time
from collections.abc import Mapping
from typing import Any

from pipeline.train.loggers.logged_run import PROJECT, Logged

# A training waits for its server: less long than MLflow's seven tries of two minutes.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
_LONGEST_VALUE = 500  # of a parameter, that every store takes


class MlflowRun:
    """A run of MLflow's, by its client: nothing global is changed in the process."""

    def __init__(self, logged: Logged, run_id: str | None) -> None:
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self._client = MlflowClient()
        self.last_step: int | None = 0
        if run_id is not None:
            try:
                self._client.update_run(run_id, status="RUNNING")
                history = self._client.get_metric_history(run_id, "train_loss")
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            else:
                self.id = run_id
                self.last_step = max((metric.step for metric in history), default=0)
                return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        run = self._client.create_run(experiment_id, run_name=logged.run.name, tags={"ci2p.run": logged.key})
        self.id = str(run.info.run_id)
        for parameter, value in _flat(logged.config).items():
            self._client.log_param(self.id, parameter, str(value)[:_LONGEST_VALUE])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._client.log_batch(self.id, [Metric(name, value, now_ms, step) for name, value in metrics.items()])

    def close(self, *, finished: bool) -> None:
        self._client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
