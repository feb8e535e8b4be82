"""The loop: it learns, a killed run is the run (T3), and it refuses by name."""

import itertools
import json
import logging
import os
import pickle
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ci2p_cache import order
from ci2p_cache.disk_cache import LocalDisk
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.printable import counted
from pipeline.models import create_model
from pipeline.train import checkpoint_writer
from pipeline.train.checkpoint import Checkpoint, load_checkpoint, refuse_non_finite, save_checkpoint
from pipeline.train.data import open_training_data
from pipeline.train.launch import step_seed
from pipeline.train.loop import train
from pipeline.train.metrics_log import MetricsLog, read_metrics
from pipeline.train.optimizer import build_optimizer, build_schedule
from pipeline.train.recipe import Recipe
from pipeline.train.run_folder import default_run, newest_run, read_config
from pipeline.train.trained_model import load_model
from tests.conftest import run_ci2p, upload_cache
from tests.equal_runs import assert_same_run
from tests.forked import Forked
from tests.torchrun_training import train_by_torchrun
from tests.toy_training import EVERYTHING, Killed, ToyData, build_small, toy_recipe, train_toy


@pytest.mark.parametrize(
    ("epoch", "step", "every"),
    [(0, 0, 1), (0, 3, 2), (1, 0, 0), (1, 4, 3), (2, 4, 1)],
)
def test_t3_killed_and_resumed_is_never_killed(
    whole_run: Path, tmp_path: Path, epoch: int, step: int, every: int
) -> None:
    with pytest.raises(Killed):
        train_toy(tmp_path / "run", ToyData(fault=("kill", epoch, step)), checkpoint_every_steps=every)
    torch.manual_seed(12345)  # whatever else the process drew meanwhile
    torch.rand(7)
    assert train_toy(tmp_path / "run", checkpoint_every_steps=every).finished
    assert_same_run(tmp_path / "run", whole_run)


@pytest.mark.parametrize("optimizer", ["muon", "nadamuon"])
def test_t3_holds_for_every_optimizer(tmp_path: Path, whole_run: Path, optimizer: str) -> None:
    train_toy(tmp_path / "whole", optimizer=optimizer)
    with pytest.raises(Killed):
        train_toy(tmp_path / "run", ToyData(fault=("kill", 1, 3)), checkpoint_every_steps=1, optimizer=optimizer)
    assert train_toy(tmp_path / "run", optimizer=optimizer).finished
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert read_metrics(tmp_path / "whole")[-1]["train_loss"] != read_metrics(whole_run)[-1]["train_loss"]


def test_t3_from_the_checkpoint_of_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every state that a training of two epochs goes through is kept, its new best weights not renamed, and gone on
    from."""
    states: list[Path] = []

    def keep(run: Path, checkpoint: Checkpoint) -> None:
        save_checkpoint(run, checkpoint)
        states.append(tmp_path / f"state{len(states)}")
        shutil.copytree(run, states[-1], ignore=shutil.ignore_patterns("*.lock"))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_writer, "save_checkpoint", keep)
        train_toy(tmp_path / "run", epochs=2, checkpoint_every_steps=1)
    assert len(states) >= 10
    for state in states[:-1]:
        assert train_toy(state, epochs=2, checkpoint_every_steps=1).finished
        assert_same_run(state, tmp_path / "run")


def test_t3_ci2p_train_really_killed(zarr_cache: Path, tmp_path: Path) -> None:
    """SIGKILL before the first checkpoint and inside an epoch; then left to finish. `make storm` has many more."""
    arguments = ["train", "--shards", str(zarr_cache), "--model", "ci2p_vit_tiny", "--epochs", "2", "--device", "cpu"]
    arguments += ["--batch-size", "4", "--set", "checkpoint_every_steps=2"]  # 5 steps an epoch
    assert run_ci2p(*arguments, "--out", tmp_path / "whole").returncode == 0
    run = tmp_path / "killed"

    def checkpoint_time() -> int:
        checkpoint = run / "last.ckpt"
        return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0

    for num_checkpoints in (0, 3):
        victim = Forked([*arguments, "--out", run])
        seen, last, deadline = 0, checkpoint_time(), time.monotonic() + 120
        while not (run / "config.json").exists() or seen < num_checkpoints:
            assert victim.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
            if checkpoint_time() != last:
                seen, last = seen + 1, checkpoint_time()
            time.sleep(0.002)
        victim.send_signal(signal.SIGKILL)
        assert victim.wait() == -signal.SIGKILL
    finished = run_ci2p(*arguments, "--out", run)
    assert finished.returncode == 0 and "resumes in epoch" in finished.stderr
    assert_same_run(run, tmp_path / "whole")


def test_t3_a_run_stopped_in_time_goes_on_as_itself(whole_run: Path, tmp_path: Path) -> None:
    for _ in range(20):
        result = train(toy_recipe(), ToyData(), tmp_path / "run", device="cpu", max_minutes=0, build=build_small)
        if result.finished:
            break
    assert result.finished
    assert_same_run(tmp_path / "run", whole_run)


def test_a_stop_in_time_leaves_a_checkpoint_after_one_step(tmp_path: Path) -> None:
    result = train(toy_recipe(), ToyData(), tmp_path, device="cpu", max_minutes=0, build=build_small)
    assert not result.finished and result.epochs == 0 and result.best_top1 is None and result.images_per_s > 0
    checkpoint = load_checkpoint(tmp_path / "last.ckpt")
    assert checkpoint is not None and (checkpoint.progress.epoch, checkpoint.progress.step) == (0, 1)
    model, _ = load_model(tmp_path, build_small)  # no evaluation yet: the last weights
    assert torch.equal(model.state_dict()["head.weight"], checkpoint.model["head.weight"])


def test_a_finished_run_says_so_and_does_nothing(whole_run: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {path.name: path.read_bytes() for path in whole_run.iterdir()}
    with caplog.at_level(logging.INFO, "ci2p"):
        result = train_toy(whole_run, ToyData(fault=("kill", 0, 0)))
    assert result.finished and result.epochs == 3
    assert "is finished" in caplog.text
    assert {path.name: path.read_bytes() for path in whole_run.iterdir()} == before


def test_it_learns_a_separable_problem(tmp_path: Path) -> None:
    result = train_toy(tmp_path, epochs=8, drop_path=0.0)
    lines = read_metrics(tmp_path)
    assert lines[-1]["train_loss"] < 0.75 * lines[0]["train_loss"]
    assert result.final_top1 is not None and result.final_top1 >= 0.95
    assert result.best_top1 == max(line["val_top1"] for line in lines)
    assert result.images_per_s > 0 and result.seconds > 0
    assert result.best_confusion is not None and list(map(sum, result.best_confusion)) == [7, 7, 7]
    assert sum(row[label] for label, row in enumerate(result.best_confusion)) / 21 == result.best_top1
    assert train_toy(tmp_path, epochs=8, drop_path=0.0).best_confusion is None  # it is finished: nothing was evaluated


def test_a_run_folder_holds_what_the_contract_names(whole_run: Path) -> None:
    lines = read_metrics(whole_run)
    keys = ["epoch", "step", "train_loss", "val_top1", "val_top5", "val_loss", "lr", "images_per_s", "seconds"]
    keys += ["fetched_bytes", "stalled_s"]  # null of a cache that is not remote
    assert [list(line) for line in lines] == [keys] * 3 and lines[0]["fetched_bytes"] is None
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 5), (2, 10), (3, 15)]
    assert all(0 <= line["val_top1"] <= line["val_top5"] == 1.0 for line in lines)  # three classes only
    config = read_config(whole_run)
    assert config.recipe == toy_recipe(precision="float32")  # chosen for the device
    assert config.data.classes == ToyData().classes and config.data.path == "caches/toy"
    assert config.versions["torch"] == torch.__version__.partition("+")[0] or config.versions["torch"]
    names = {path.name for path in whole_run.iterdir() if not path.name.startswith("events.")}
    assert names == {"config.json", "images.npz", "metrics.jsonl", "last.ckpt", "previous.ckpt", "best.safetensors"}


def test_the_best_weights_come_back_and_reproduce_their_accuracy(whole_run: Path) -> None:
    model, config = load_model(whole_run, build_small)
    assert not model.training
    for name, value in load_file(whole_run / "best.safetensors").items():
        assert torch.equal(model.state_dict()[name], value)
    correct = total = 0
    for batch in ToyData().val_batches(_alone(), batch_size=8).epoch(0):
        with torch.no_grad():
            correct += int((model(batch.latents).argmax(1) == batch.labels).sum())
        total += len(batch.labels)
    assert correct / total == pytest.approx(max(line["val_top1"] for line in read_metrics(whole_run)))
    last, _ = load_model(whole_run / "last.ckpt", build_small)
    assert config.recipe.epochs == 3 and last is not None


def _alone() -> Any:
    from pipeline.train.data import Share

    return Share(0, 1, torch.device("cpu"))


def test_evaluation_only_when_due(tmp_path: Path) -> None:
    train_toy(tmp_path, eval_every=2)
    assert [line["val_top1"] is None for line in read_metrics(tmp_path)] == [True, False, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 1e-3}, r"lr is 0\.002 there and 0\.001 in this command; give another --out"),
        ({"epochs": 4}, r"has a schedule of 3 epochs, which ends where it ends; for more, .*--init-from"),
        ({"precision": "bfloat16"}, r"precision is 'float32' there and 'bfloat16'"),
        ({"optimizer": "muon"}, r"optimizer is 'adamw' there and 'muon' in this command; give another --out"),
    ],
)
def test_a_run_folder_of_another_run_is_refused(whole_run: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_toy(whole_run, **settings)


def test_a_run_on_other_data_is_refused(whole_run: Path) -> None:
    with pytest.raises(InputError, match=r"data is 'caches/toy toy' there and 'caches/toy other' in this command"):
        train_toy(whole_run, ToyData(fingerprint="other"))
    assert train_toy(whole_run, ToyData(path="elsewhere/toy")).finished  # a cache may move


def test_what_changes_no_result_may_differ_on_resume(whole_run: Path) -> None:
    assert train_toy(whole_run, checkpoint_every_minutes=1.0, checkpoint_every_steps=2, compile=True).finished


def test_a_loss_that_is_no_number_stops_the_run_and_spares_its_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"the loss is nan at step 8 \(lr \d"):
        train_toy(tmp_path, ToyData(fault=("nan", 1, 3)))
    checkpoint = load_checkpoint(tmp_path / "last.ckpt")
    assert checkpoint is not None and checkpoint.progress.epoch == 1
    assert all(bool(torch.isfinite(value.float()).all()) for value in checkpoint.model.values())


def test_a_model_with_a_weight_that_is_no_number_is_not_saved() -> None:
    model = torch.nn.Linear(2, 2)
    refuse_non_finite(model, 7)
    with torch.no_grad():
        model.bias[1] = float("inf")
    with pytest.raises(WorkError, match=r"bias is no longer finite after step 7, which is in no checkpoint"):
        refuse_non_finite(model, 7)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "it ran"),))

    (tmp_path / "last.ckpt").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(WorkError):
        load_checkpoint(tmp_path / "last.ckpt")
    torch.save(Payload(), tmp_path / "last.ckpt")
    with pytest.raises(WorkError):
        load_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "it ran").exists()


def test_metrics_lines_beyond_the_checkpoint_and_half_lines_are_dropped(tmp_path: Path) -> None:
    lines = [json.dumps({"epoch": epoch, "val_top1": 0.5}) for epoch in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"epoch": 4, "val')
    assert [line["epoch"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    with MetricsLog(tmp_path, 2, 10):
        pass
    assert [line["epoch"] for line in read_metrics(tmp_path)] == [1, 2]


def test_weight_decay_spares_biases_and_norms() -> None:
    model = create_model("ci2p_vit_tiny", num_classes=10)
    groups = build_optimizer(model, Recipe()).param_groups
    decayed = {id(parameter) for group in groups if group["weight_decay"] == 0.05 for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (parameter.ndim > 1), name
    assert {group["weight_decay"] for group in groups} == {0.0, 0.05}
    assert all(group["betas"] == (0.9, 0.999) for group in groups)


def test_muon_steps_matrices_and_leaves_the_rest_to_adamw() -> None:
    model = create_model("cnn_vit_tiny", num_classes=10, input_shape=(3, 64, 64))
    optimizer = build_optimizer(model, Recipe(optimizer="nadamuon", betas=(0.8, 0.9)))
    assert {(group["lr"], group["momentum"], group["betas"]) for group in optimizer.param_groups} == {
        (1e-4, 0.8, (0.8, 0.9))
    }
    decayed = {
        id(each) for group in optimizer.param_groups if group["weight_decay"] == 0.05 for each in group["params"]
    }
    model(torch.rand(2, 3, 64, 64)).square().sum().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        spared = parameter.ndim < 2 or name.startswith("vit.head") or name.endswith(".gamma") or "depthwise" in name
        assert optimizer.state[parameter]["use_muon"] is not spared, name
        assert (id(parameter) in decayed) == (parameter.ndim > 1 and not name.endswith(".gamma")), name


def test_the_schedule_is_the_paper_s_and_a_function_of_the_step() -> None:
    optimizer = build_optimizer(torch.nn.Linear(2, 2), Recipe())
    schedule = build_schedule(optimizer, Recipe(), steps_per_epoch=10)

    def rate(step: int) -> float:
        schedule.step_update(step)
        return float(optimizer.param_groups[0]["lr"])

    assert rate(0) == pytest.approx(1e-6)
    assert rate(100) == pytest.approx((1e-6 + 1e-4) / 2)
    assert rate(200) == pytest.approx(1e-4)
    assert rate(1600) == pytest.approx((1e-4 + 1.25e-6) / 2)
    assert rate(2999) == pytest.approx(1.25e-6, rel=1e-3)
    assert rate(100) == pytest.approx((1e-6 + 1e-4) / 2)
    for epochs in (1, 2, 5):  # a run of few steps has a schedule too
        short = build_schedule(optimizer, Recipe.model_validate({"epochs": epochs}), steps_per_epoch=1)
        short.step_update(epochs - 1)


def test_a_constant_schedule_knows_its_end_in_the_decay_alone() -> None:
    def rates(**settings: object) -> list[float]:
        recipe = toy_recipe(schedule="constant", warmup_epochs=1, min_lr=1e-3, **settings)
        optimizer = build_optimizer(torch.nn.Linear(2, 2), recipe)
        schedule = build_schedule(optimizer, recipe, steps_per_epoch=4)
        found = []
        for step in range(4 * recipe.epochs):
            schedule.step_update(step)
            found.append(float(optimizer.param_groups[0]["lr"]))
        return found

    short, long, decayed = rates(epochs=2), rates(epochs=5), rates(epochs=5, decay_epochs=2.5)
    assert short == long[:8] and long[4:] == [2e-3] * 16 and long[0] == pytest.approx(1e-6)
    assert decayed[:10] == long[:10] and decayed[-1] == pytest.approx(1e-3)
    falls = [before - after for before, after in itertools.pairwise(decayed[9:])]
    assert falls == pytest.approx([1e-4] * 10)


def test_a_step_s_seed_is_its_own() -> None:
    seeds = {step_seed(s, e, t) for s in range(3) for e in range(3) for t in range(3)}
    assert len(seeds) == 27
    assert step_seed(1, 2, 3) == step_seed(1, 2, 3)


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        ("gpu", "float32", r"--device 'gpu' is unknown; use auto, cpu, cuda"),
        ("cpu", "float16", r"precision float16: it needs a GPU, and the device is the cpu; use bfloat16 or float32"),
        ("cpu", "tf32", r"precision tf32: it is what NVIDIA's GPUs do, and the device is the cpu; use bfloat16 or fl"),
        (
            "cuda:99",
            "float32",
            f"--device cuda:99: torch finds {counted(torch.cuda.device_count(), 'CUDA device')}; use",
        ),
    ],
)
def test_devices_are_refused_by_name(tmp_path: Path, device: str, precision: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(toy_recipe(precision=precision), ToyData(), tmp_path, device=device, build=build_small)
    assert not (tmp_path / "config.json").exists()


def test_bfloat16_and_clipping_train_too(tmp_path: Path) -> None:
    result = train_toy(tmp_path, precision="bfloat16", grad_clip=1.0, epochs=8, drop_path=0.0)
    assert result.final_top1 is not None and result.final_top1 >= 0.9


def test_names_of_runs(tmp_path: Path) -> None:
    assert default_run("ci2p_vit_base", "caches/animals10/", 3) == Path("runs/ci2p_vit_base-animals10-3")
    assert default_run("m", "s3://bucket/pets", 0) == Path("runs/m-pets-0")
    with pytest.raises(InputError, match="there is no run under"):
        newest_run(tmp_path)
    for age, name in ((20, "old"), (5, "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        os.utime(tmp_path / name / "config.json", (time.time() - age,) * 2)
    assert newest_run(tmp_path) == tmp_path / "new"
    with pytest.raises(InputError, match="is no run of `ci2p train`"):
        read_config(tmp_path)


def test_on_a_real_cache(cache: Path, tmp_path: Path) -> None:
    """Store -> loader -> model -> loss, and a resume, in both formats."""
    data = open_training_data(cache)
    recipe = Recipe.model_validate({"model": "ci2p_vit_tiny", "epochs": 2, "batch_size": 7, "seed": 4})
    whole = train(recipe, data, tmp_path / "whole", device="cpu", build=build_small)
    assert whole.finished and whole.final_top1 is not None
    assert read_metrics(tmp_path / "whole")[-1]["step"] == 6
    while not train(recipe, data, tmp_path / "run", device="cpu", max_minutes=0, build=build_small).finished:
        pass
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    model, config = load_model(tmp_path / "run", build_small)
    assert config.data.spec["image_size"] == 32
    assert model(torch.zeros(1, *config.data.input_shape)).shape == (1, 3)


def test_t3_a_streamed_run_resumes_whatever_memory_is_free(
    zarr_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at every step, and resident by "auto" every other time."""
    monkeypatch.setattr(order, "_WINDOW_IMAGES", 8)
    url = upload_cache(zarr_cache, "trained")
    recipe = Recipe.model_validate({"model": "ci2p_vit_tiny", "epochs": 2, "batch_size": 7, "seed": 4})
    data = [open_training_data(url, resident=resident) for resident in ("off", "auto")]
    train(recipe, data[0], tmp_path / "whole", device="cpu", build=build_small)
    steps = itertools.count(1)
    while not train(
        recipe, data[next(steps) % 2], tmp_path / "run", device="cpu", max_minutes=0, build=build_small
    ).finished:
        pass
    assert next(steps) == 7
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    kept = open_training_data(url, resident="off", disk=LocalDisk(str(tmp_path / "kept"), 10**9))
    train(recipe, kept, tmp_path / "kept run", device="cpu", build=build_small)
    assert_same_run(tmp_path / "kept run", tmp_path / "whole")
    stored = sum(record.bytes for split in (kept.train, kept.val) for record in split.manifest.shards)
    fetched = [line["fetched_bytes"] for line in read_metrics(tmp_path / "kept run")]
    assert stored <= fetched[0][0] < 1.5 * stored and fetched[1] == [0]  # the item lists are among it
    assert all(line["fetched_bytes"][0] > 0 for line in read_metrics(tmp_path / "whole"))


@pytest.fixture(scope="module")
def augmented_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, with everything on that draws random numbers."""
    run = tmp_path_factory.mktemp("alone") / "run"
    train_toy(run, ToyData(input_shape=(8, 8, 8)), **EVERYTHING)
    return run


@pytest.mark.parametrize("case", ["stopped", "killed"])
def test_t2_two_processes_lose_what_one_loses(tmp_path: Path, augmented_run: Path, case: str) -> None:
    """Killed and started again by torchrun; or stopped after an epoch, and gone on with by one."""
    run = tmp_path / "run"
    together = Forked([run, case], work=train_by_torchrun)
    _, errors = together.communicate(timeout=280)
    assert together.returncode == 0, errors[-3000:]
    assert read_config(run).world_size == 2
    if case == "stopped":
        assert train_toy(run, ToyData(input_shape=(8, 8, 8)), **EVERYTHING).finished
    together, alone = read_metrics(run), read_metrics(augmented_run)
    assert [line["step"] for line in together] == [5, 10, 15]
    for ours, theirs in zip(together, alone, strict=True):
        # But for the order in which float32 numbers are added; and each of 21 validation samples is counted once.
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-4)
        assert ours["val_top1"] == theirs["val_top1"]
