"""Loggers follow metrics.jsonl: what it has and a service has not is sent, after every epoch and after a resume.

So no step is sent twice, none is left out, and what a service did not take is sent with the next epoch. A logger's
failure is not the training's: it is a warning, and counted.
"""

import json
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ci2p_cache.errors import InputError
from ci2p_cache.extras import not_installed
from ci2p_cache.printable import counted
from ci2p_cache.publish import publish
from pipeline.train.loggers.logged_run import Logged, LoggedRun, Opener
from pipeline.train.loggers.mlflow_run import MlflowRun
from pipeline.train.loggers.trackio_run import TrackioRun
from pipeline.train.loggers.wandb_run import WandbRun
from pipeline.train.run_folder import RunConfig

logger = logging.getLogger("ci2p")

SENT = "loggers.json"
"""In a run folder: of each logger the service's id of the run, and the last step it was sent."""

OPENERS: dict[str, Opener] = {"mlflow": MlflowRun, "trackio": TrackioRun, "wandb": WandbRun}
_MOST_FAILURES = 3  # one after another: then the service is left alone until the next start


def require_loggers(names: Sequence[str]) -> None:
    """Raises InputError for a logger that does not exist, or whose package is not installed."""
    for name in names:
        if name not in OPENERS:
            raise InputError(f"--logger {name}: there is no such logger; there are {', '.join(sorted(OPENERS))}")
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # a mere folder of that name, as wandb leaves in the current one
            raise not_installed(name, f"--logger {name}", ModuleNotFoundError(name=name))


class Loggers:
    """What follows the metrics of one run; a context manager. Nothing of it raises."""

    def __init__(self, names: Sequence[str], run: Path, config: RunConfig) -> None:
        self._followers = [_Follower(name, OPENERS[name], run, config) for name in dict.fromkeys(names)]

    def follow(self, metrics: str, *, finished: bool) -> None:
        """Sends what is new in the text of a metrics.jsonl."""
        for follower in self._followers:
            follower.follow([json.loads(line) for line in metrics.splitlines()], finished=finished)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for follower in self._followers:
            follower.close()


class _Follower:
    def __init__(self, name: str, opener: Opener, run: Path, config: RunConfig) -> None:
        self._name, self._opener, self._run, self._config = name, opener, run, config
        self._open: LoggedRun | None = None
        self._id: str | None = None
        self._key = uuid.uuid4().hex[:12]
        self._sent = 0
        self._num_pending = 0
        self._num_failures = 0
        self._finished = False
        self._try("read what it was sent", self._read)

    def follow(self, lines: list[dict[str, Any]], *, finished: bool) -> None:
        pending = [line for line in lines if line["step"] > self._sent]
        self._num_pending, self._finished = len(pending), finished
        if pending and self._num_failures < _MOST_FAILURES:
            self._try(f"log epoch {pending[-1]['epoch']}", lambda: self._send(lines))

    def close(self) -> None:
        if self._open is not None:
            opened, self._open = self._open, None
            self._try("end its run", lambda: opened.close(finished=self._finished))
        if self._num_pending:
            logger.warning(
                "--logger %s: %s not logged; metrics.jsonl has them, and the same command sends them",
                self._name,
                counted(self._num_pending, "epoch"),
            )

    def _send(self, lines: list[dict[str, Any]]) -> None:
        if self._open is None:
            opened = self._opener(Logged(self._run, self._key, _described(self._config)), self._id)
            if opened.last_step is not None:  # the service knows better than we do
                self._sent = opened.last_step
            self._open, self._id = opened, opened.id
            self._write()
        pending = [line for line in lines if line["step"] > self._sent]
        for count, line in enumerate(pending):
            self._num_pending = len(pending) - count
            self._open.log(line["step"], _numbers(line))
            self._sent = line["step"]
            self._write()
        self._num_pending = self._num_failures = 0

    def _try(self, what: str, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:  # noqa: BLE001  (whatever a service's library raises, the training goes on)
            self._num_failures += 1
            why = " ".join(str(error).split())[:200] or type(error).__name__
            logger.warning("--logger %s could not %s (%s); the training goes on", self._name, what, why)
            if self._num_failures == _MOST_FAILURES:
                logger.warning("--logger %s is not tried again before the next start", self._name)

    def _read(self) -> None:
        noted = _read_sent(self._run).get(self._name)
        if noted is not None:
            self._id, self._key, self._sent = noted["id"], noted["key"], int(noted["step"])

    def _write(self) -> None:
        noted = _read_sent(self._run) | {self._name: {"id": self._id, "key": self._key, "step": self._sent}}
        publish(self._run / SENT, (json.dumps(noted, indent=1) + "\n").encode())


def _read_sent(run: Path) -> dict[str, Any]:
    path = run / SENT
    if not path.exists():
        return {}
    noted: dict[str, Any] = json.loads(path.read_bytes())
    return noted


def _described(config: RunConfig) -> Mapping[str, Any]:
    """What a service shows beside the curves; no place on this machine."""
    data = {"fingerprint": config.data.fingerprint, "num_classes": len(config.data.classes)}
    return {
        "recipe": config.recipe.model_dump(mode="json"),
        "data": data,
        "device": config.device,
        "world_size": config.world_size,
        "versions": config.versions,
    }


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in line.items() if name != "step" and value is not None}
