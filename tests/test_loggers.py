"""`--logger`: every epoch once in each service, whatever ended the run; a service's failure is not the training's."""

import json
import logging
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ci2p_cache.errors import InputError
from pipeline.train import checkpoint_writer
from pipeline.train.loggers import follower
from pipeline.train.loggers.logged_run import Logged
from tests.conftest import call_ci2p
from tests.equal_runs import CLOCKS
from tests.toy_training import Killed, ToyData, train_toy

STEPS = [5, 10, 15]


class Service:
    """What a service has: steps and metrics by run, which it says of itself or not."""

    def __init__(self, knows: bool = True) -> None:
        self.knows = knows
        self.runs: dict[str, list[tuple[int, Mapping[str, float]]]] = {}
        self.configs: list[Mapping[str, Any]] = []
        self.ends: list[bool] = []
        self.refuse: Callable[[int], bool] = lambda step: False

    def open(self, logged: Logged, run_id: str | None) -> "ServiceRun":
        self.configs.append(logged.config)
        return ServiceRun(self, run_id or logged.key)

    @property
    def steps(self) -> list[int]:
        (logged,) = self.runs.values()
        return [step for step, _ in logged]


class ServiceRun:
    def __init__(self, service: Service, name: str) -> None:
        self._service, self.id = service, name
        had = service.runs.setdefault(name, [])
        self.last_step = max((step for step, _ in had), default=0) if service.knows else None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._service.refuse(step):
            raise ConnectionError("no\nanswer")
        self._service.runs[self.id].append((step, metrics))

    def close(self, *, finished: bool) -> None:
        self._service.ends.append(finished)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service()
    monkeypatch.setitem(follower.OPENERS, "wandb", service.open)
    monkeypatch.setattr(follower, "find_spec", lambda name: type("Spec", (), {"origin": name}))
    return service


def kill_at_checkpoint(monkeypatch: pytest.MonkeyPatch, number: int, *, before: bool) -> None:
    save, saved = checkpoint_writer.save_checkpoint, []

    def killing(*args: Any) -> None:
        saved.append(args)
        if len(saved) == number and before:
            raise Killed
        save(*args)
        if len(saved) == number:
            raise Killed

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", killing)


@pytest.mark.parametrize(("knows", "before"), [(True, False), (False, True)])
def test_no_step_is_sent_twice_and_none_is_left_out(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch, before: bool, knows: bool
) -> None:
    """Killed before the second checkpoint, or with it written; its epoch is sent by then."""
    service.knows = knows
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at_checkpoint(patch, 2, before=before)
        train_toy(tmp_path, loggers=["wandb"])
    assert service.steps == [5, 10]
    train_toy(tmp_path, loggers=["wandb"])
    train_toy(tmp_path, loggers=["wandb"])  # finished: nothing is added
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (logged,) = service.runs.values()
    numbers = [{name: value for name, value in line.items() if name != "step" and value is not None} for line in lines]
    assert service.steps == STEPS
    for (_, metrics), line in zip(logged, numbers, strict=True):  # of an epoch that came again another clock was read
        assert {name: metrics[name] for name in metrics if name not in CLOCKS} == {
            name: line[name] for name in line if name not in CLOCKS
        }
    assert service.ends == [False, True]
    assert service.configs[0]["recipe"]["lr"] == 2e-3 and str(tmp_path) not in json.dumps(service.configs[0])


def test_what_a_service_lost_is_sent_again(tmp_path: Path, service: Service) -> None:
    with pytest.raises(Killed):
        train_toy(tmp_path, ToyData(fault=("kill", 2, 1)), loggers=["wandb"])
    (logged,) = service.runs.values()
    assert [step for step, _ in logged] == [5, 10]
    del logged[1]
    train_toy(tmp_path, loggers=["wandb"])
    assert service.steps == STEPS


def test_a_failure_is_a_warning_and_its_epoch_is_sent_with_the_next(
    tmp_path: Path, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    refused: list[int] = []
    service.refuse = lambda step: step == 10 and not refused and not refused.append(step)  # type: ignore[func-returns-value]
    with caplog.at_level(logging.WARNING, "ci2p"):
        assert train_toy(tmp_path, loggers=["wandb"]).finished
    assert service.steps == STEPS
    (warning,) = caplog.messages
    assert warning == "--logger wandb could not log epoch 2 (no answer); the training goes on"


def test_a_service_that_is_away_is_left_alone_and_told_later(
    tmp_path: Path, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.refuse = lambda step: True
    with caplog.at_level(logging.WARNING, "ci2p"):
        result = train_toy(tmp_path / "run", loggers=["wandb"], epochs=4)
    assert result.finished
    assert sum("could not log epoch" in message for message in caplog.messages) == 3
    assert caplog.messages[-2:] == [
        "--logger wandb is not tried again before the next start",
        "--logger wandb: 4 epochs not logged; metrics.jsonl has them, and the same command sends them",
    ]
    service.refuse = lambda step: False
    train_toy(tmp_path / "run", loggers=["wandb"], epochs=4)
    assert service.steps == [*STEPS, 20]


def test_what_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zarr_cache: Path) -> None:
    monkeypatch.setattr(follower, "find_spec", lambda name: None)
    refused = call_ci2p("train", zarr_cache, "--out", "run", "--logger", "trackio", cwd=tmp_path)
    assert refused.returncode == 2 and not (tmp_path / "run").exists()
    said = refused.stderr.splitlines()[-1]
    assert said == "Error: --logger trackio: the package trackio is not installed; pip install 'trackio>=0.43'"
    with pytest.raises(InputError, match="no such logger; there are mlflow, trackio, wandb"):
        train_toy(tmp_path / "run", loggers=["neptune"])


def resumed(run: Path, name: str) -> None:
    with pytest.raises(Killed):
        train_toy(run, ToyData(fault=("kill", 1, 2)), loggers=[name])
    train_toy(run, loggers=[name])
    train_toy(run, loggers=[name])


def test_wandb_keeps_it_in_the_run_folder_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    resumed(tmp_path / "run", "wandb")
    files = sorted((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"), key=lambda each: each.stat().st_mtime)
    records = [wandb_internal_pb2.Record.FromString(each) for file in files for each in log_records(file.read_bytes())]
    found = []
    for record in records:
        items = {"".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        if items:
            found.append((json.loads(items["_step"]), json.loads(items["epoch"])))
    assert len({file.name for file in files}) == 1  # one run of wandb's
    assert found == [(5, 1), (10, 2), (15, 3)]


def log_records(content: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log behind wandb's own 7 bytes: crc32, length, type (1 whole, 2 first, 4 last)."""
    place, record = 7, b""
    while place + 7 <= len(content):
        _, length, kind = struct.unpack_from("<IHB", content, place)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768


def test_mlflow_keeps_it_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    resumed(tmp_path / "run", "mlflow")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("ci2p").experiment_id])
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val_top1")] == STEPS
    assert (run.info.status, run.data.params["recipe.lr"], run.info.run_name) == ("FINISHED", "0.002", "run")


def test_trackio_keeps_it_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # which it reads when it is imported
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    resumed(tmp_path / "run", "trackio")
    (name,) = SQLiteStorage.get_runs("ci2p")
    logs = SQLiteStorage.get_logs("ci2p", name)
    assert name.startswith("run-") and [(log["step"], log["epoch"]) for log in logs] == [(5, 1), (10, 2), (15, 3)]
