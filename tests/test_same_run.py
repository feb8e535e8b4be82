"""A resume is the same run, bit for bit (T3), or a refusal; what is read back from a run folder may be anything."""

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ci2p_cache import order
from ci2p_cache.convert import convert_split
from ci2p_cache.errors import Ci2pError, InputError, WorkError
from ci2p_cache.spec import values_of
from pipeline.train.checkpoint import load_checkpoint, save_checkpoint
from pipeline.train.data import CacheData, is_same, open_training_data
from pipeline.train.loop import TrainResult, train
from pipeline.train.metrics_log import EpochMetrics, MetricsLog, read_metrics
from pipeline.train.recipe import Recipe
from pipeline.train.run_folder import read_config
from pipeline.train.trained_model import load_model
from tests.conftest import upload_cache
from tests.equal_runs import assert_same_run
from tests.toy_training import ToyData, build_small, toy_recipe, train_toy

RECIPE = Recipe.model_validate({"model": "ci2p_vit_tiny", "epochs": 2, "batch_size": 7, "seed": 4})


def go_on(data: CacheData, run: Path, *, one_step: bool = True) -> TrainResult:
    return train(RECIPE, data, run, device="cpu", max_minutes=0 if one_step else None, build=build_small)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy run with a checkpoint and an epoch's record, not finished."""
    run = tmp_path_factory.mktemp("runs") / "run"
    stop_after_one: list[Callable[[EpochMetrics], bool]] = [lambda _: True]
    train(toy_recipe(), ToyData(), run, device="cpu", build=build_small, callbacks=stop_after_one)
    return run


@pytest.fixture
def stopped(begun: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(begun, tmp_path / "run"))


def test_t3_a_run_goes_on_from_its_cache_in_another_format_and_store(zarr_cache: Path, tmp_path: Path) -> None:
    """Another one at every step."""
    for name, format, store in (("tars", "webdataset", None), ("rans", "zarr", "rans")):
        for split in ("train", "val"):
            convert_split(zarr_cache, tmp_path / name, split, format, store)  # type: ignore[arg-type]
    caches = [open_training_data(path) for path in (zarr_cache, tmp_path / "tars", tmp_path / "rans")]
    assert len({data.fingerprint for data in caches}) == 1
    go_on(caches[0], tmp_path / "whole", one_step=False)
    steps = itertools.count(1)
    while not go_on(caches[next(steps) % 3], tmp_path / "run").finished:
        pass
    assert_same_run_but_config(tmp_path / "run", tmp_path / "whole")
    load_model(tmp_path / "run", build_small)  # its config is the last cache's, its best weights' perhaps another's


def assert_same_run_but_config(ours: Path, theirs: Path) -> None:
    """The best weights bear the config of the cache that they were trained on at that time."""
    from safetensors.torch import load_file, save_file

    for run in (ours, theirs):
        save_file(load_file(run / "best.safetensors"), run / "plain.safetensors")
        shutil.copy(run / "best.safetensors", run / "sealed")
        (run / "plain.safetensors").replace(run / "best.safetensors")
    assert_same_run(ours, theirs)
    for run in (ours, theirs):
        (run / "sealed").replace(run / "best.safetensors")


def test_values_are_those_of_another_step_or_seed_no_more(zarr_cache: Path) -> None:
    spec = open_training_data(zarr_cache).train.spec
    same = {"format": "webdataset", "store": "rans", "record_images": 64, "format_version": 1}
    for field, value in same.items():
        assert spec.model_copy(update={field: value}).values_id == spec.values_id
    for field, value in {"step": 0.5, "seed": 9, "shard_size": 3, "items_sha256": "0", "store": "float16"}.items():
        assert spec.model_copy(update={field: value}).values_id != spec.values_id, field
    assert values_of({"resize": 3}) == {"resize": 3}


def test_contents_count_where_both_know_them() -> None:
    assert is_same("a-b", "a-b-c-d") and is_same("a-b-c-d", "a-b")
    assert not is_same("a-b-c-d", "a-b-c-e") and not is_same("a-c", "a-b-c-d")


@pytest.mark.parametrize("first", ["local", "streamed"])
def test_t3_another_order_is_refused(
    zarr_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """A streamed cache of several windows comes in another order than a local or a resident one."""
    monkeypatch.setattr(order, "_WINDOW_IMAGES", 8)
    url = upload_cache(zarr_cache, f"order-{first}")
    local, streamed, resident = (
        open_training_data(path, resident=how) for path, how in ((zarr_cache, "off"), (url, "off"), (url, "cpu"))
    )
    if first == "local":
        go_on(local, tmp_path)
        with pytest.raises(InputError, match=r"all samples mixed there and streamed, \d+ shards? at a time in this"):
            go_on(streamed, tmp_path)
        assert go_on(resident, tmp_path).images_per_s > 0
    else:
        go_on(streamed, tmp_path)
        for other in (local, resident):
            with pytest.raises(InputError, match=r"give --shards and --resident as they were \(it was begun on mem"):
                go_on(other, tmp_path)
    assert load_checkpoint(tmp_path / "last.ckpt") is not None


def test_t3_a_run_in_the_order_of_an_older_ci2p_is_refused(zarr_cache: Path, tmp_path: Path) -> None:
    data = open_training_data(zarr_cache)
    go_on(data, tmp_path)
    config = json.loads((tmp_path / "config.json").read_bytes())
    del config["data"]["order_version"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="begun by a ci2p that has samples come in another order"):
        go_on(data, tmp_path)


def test_t3_one_window_is_the_whole_and_resumes_from_anywhere(zarr_cache: Path, tmp_path: Path) -> None:
    caches = [open_training_data(zarr_cache), open_training_data(upload_cache(zarr_cache, "one-window"))]
    go_on(caches[0], tmp_path / "whole", one_step=False)
    steps = itertools.count()
    while not go_on(caches[next(steps) % 2], tmp_path / "run").finished:
        pass
    assert_same_run_but_config(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("ours", ["", "known"])
def test_a_checkpoint_that_another_run_wrote_is_refused(stopped: Path, tmp_path: Path, ours: str) -> None:
    """By its run; one of an older ci2p by what does not fit."""
    other = tmp_path / "other"
    settings: dict[str, object] = {"lr": 1e-3} if ours else {"model": "ci2p_vit_small"}
    train(toy_recipe(**settings), ToyData(), other, device="cpu", max_minutes=0, build=build_small)
    checkpoint = load_checkpoint(other / "last.ckpt")
    assert checkpoint is not None
    if not ours:
        weights = {name: value.flatten()[:1] for name, value in checkpoint.model.items()}
        checkpoint = replace(checkpoint, run="", model=weights)
    save_checkpoint(stopped, checkpoint)
    message = r"last\.ckpt is of another run" if ours else r"the checkpoint is not ci2p_vit_tiny's \("
    with pytest.raises(WorkError, match=message):
        train_toy(stopped)


def forget_metrics(run: Path) -> None:
    """As an older ci2p left it."""
    checkpoint = load_checkpoint(run / "last.ckpt")
    assert checkpoint is not None and checkpoint.metrics
    save_checkpoint(run, replace(checkpoint, metrics=None))


@pytest.mark.parametrize("older", [False, True])
def test_t3_blank_lines_in_metrics_are_nothing(
    stopped: Path, tmp_path: Path, older: bool, caplog: pytest.LogCaptureFixture
) -> None:
    train_toy(tmp_path / "whole")
    lines = (stopped / "metrics.jsonl").read_bytes()
    (stopped / "metrics.jsonl").write_bytes(b"\n \r\n\0\0\0\n" + lines + b"\n\0\0\n\0\0\0")
    assert [line["epoch"] for line in read_metrics(stopped)] == [1]
    if older:
        forget_metrics(stopped)
    assert train_toy(stopped).finished
    assert ("metrics.jsonl is not as it was written; its lines are taken" in caplog.text) == (not older)
    assert_same_run(stopped, tmp_path / "whole")


@pytest.mark.parametrize("change", [lambda text: text.replace("0", "1"), lambda _: "", lambda text: text[:-9]])
def test_t3_changed_records_are_written_anew(
    stopped: Path, tmp_path: Path, change: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    train_toy(tmp_path / "whole")
    text = (stopped / "metrics.jsonl").read_text()
    (stopped / "metrics.jsonl").write_text(change(text))
    assert train_toy(stopped).finished
    assert "metrics.jsonl is not as it was written; its lines are taken from the checkpoint" in caplog.text
    assert (stopped / "metrics.jsonl").read_text().startswith(text)
    assert_same_run(stopped, tmp_path / "whole")


@pytest.mark.parametrize(
    "line", ["[" * 5000, "{}", "7", '{"epoch": "1"}', '{"epoch": true}', "not json", '{"ep\0och": 1}', '"\udc80"']
)
def test_a_line_that_is_no_epoch_s_is_named(stopped: Path, line: str) -> None:
    forget_metrics(stopped)
    path = stopped / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + line.encode(errors="surrogateescape") + b"\n")
    before = path.read_bytes()
    for read in (lambda: read_metrics(stopped), lambda: MetricsLog(stopped, 1, 5), lambda: train_toy(stopped)):
        with pytest.raises(WorkError, match=r"metrics\.jsonl: line 2 is no epoch's record; mend it, or take it out"):
            read()
    assert path.read_bytes() == before


def _set(**values: object) -> Callable[[str], str]:
    return lambda text: json.dumps(json.loads(text) | values)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: "",
        lambda _: "\0" * 100,
        lambda _: "[" * 100_000,
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"lr"', '"\0"'),
        _set(recipe=3),
        _set(data=None),
        _set(device=1e400),
    ],
)
def test_a_config_that_is_none_is_refused_in_a_line(stopped: Path, change: Callable[[str], str]) -> None:
    config = stopped / "config.json"
    config.write_text(change(config.read_text()))
    for act in (lambda: train_toy(stopped), lambda: load_model(stopped / "last.ckpt", build_small)):
        with pytest.raises(Ci2pError, match=r"config\.json is not of this version of ci2p \(") as error:
            act()
        assert "\n" not in str(error.value) and "\0" not in str(error.value)
    with pytest.raises(InputError):
        read_config(stopped)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (
            {"run_id": "f00"},
            r"process 1 \(there\) would train another run than process 0 .* a --precision where their",
        ),
        (
            {"epoch": 0},
            r"process 0 would go on in epoch 2 after step 0 .*, and process 1 at the beginning \(there\):",
        ),
        (
            {"step": 3},
            r"and process 1 in epoch 2 after step 3 \(there\): they do not see the same .* give an --out that",
        ),
        ({"refusal": WorkError("last.ckpt is damaged")}, "^last.ckpt is damaged$"),
    ],
)
def test_processes_that_start_elsewhere_are_refused(
    begun: Path, other: dict[str, object], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a second process has found comes from here; two real ones are in tests/test_train.py."""

    def gather(found: object, launched: object) -> list[object]:
        return [found, replace(found, machine="there", **other)]  # type: ignore[type-var]

    monkeypatch.setattr("pipeline.train.same_start.gather", gather)
    with pytest.raises(Ci2pError, match=named):
        train(toy_recipe(), ToyData(), begun, device="cpu", build=build_small)
