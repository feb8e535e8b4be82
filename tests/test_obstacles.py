"""What cannot be trained, or ends for want of something, says so in one line."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ci2p_cache.verify
from ci2p_cache.errors import InputError
from pipeline.running.compiling import compiler_errors
from pipeline.running.launched import ALONE, launched_as
from pipeline.running.memory import is_out_of_memory
from pipeline.train import checkpoint_writer
from pipeline.train.checkpoint import Checkpoint
from pipeline.train.data import Share
from pipeline.train.obstacles import refuse_untrainable
from pipeline.train.recipe import load_recipe
from tests.conftest import call_ci2p
from tests.test_cli import refused
from tests.toy_training import ToyData, toy_recipe, train_toy

SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


def test_one_class_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has one class \('left'\)"):
        train_toy(tmp_path / "run", ToyData(classes=("left",)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("window", [0, 2])
def test_one_token_of_one_image_names_the_batch(tmp_path: Path, window: int) -> None:
    data = ToyData(input_shape=(8, 4, 4) if window else (8, 2, 2))
    with pytest.raises(InputError, match=r"^batch_size = 1 gives BatchNorm one value a channel"):
        train_toy(tmp_path / "run", data, batch_size=1, window=window)
    assert train_toy(tmp_path / "run", data, batch_size=2, window=window, epochs=1).finished


def test_graphs_across_processes_are_refused() -> None:
    recipe, alone = toy_recipe(compile="reduce-overhead"), Share(0, 1, torch.device("cpu"))
    refuse_untrainable(recipe, ToyData(), alone)
    with pytest.raises(InputError, match=r'^compile = "reduce-overhead" is for one process, and these are 2; give'):
        refuse_untrainable(recipe, ToyData(), replace(alone, world_size=2))


def test_a_compiler_that_is_not_there_is_said_in_one_line() -> None:
    compiled = torch.compile(lambda x: x + 1, backend=_no_compiler)
    with pytest.raises(InputError) as raised, compiler_errors():
        compiled(torch.ones(1))
    assert "No working C++ compiler" in str(raised.value) and "\n" not in str(raised.value)
    assert str(raised.value).endswith("install a C++ compiler, or give --no-compile")
    with pytest.raises(RuntimeError, match="ours"), compiler_errors():
        raise RuntimeError("ours")


def _no_compiler(graph: object, inputs: object) -> None:
    raise RuntimeError("No working C++ compiler found\nand a hundred lines more")


def test_a_slurm_job_of_several_tasks_is_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert launched_as() == ALONE
    assert train_toy(tmp_path, epochs=1).finished


@pytest.mark.parametrize("of_srun", [{"SLURM_STEP_NUM_TASKS": "4"}, {"SLURM_PROCID": "1"}])
def test_several_tasks_of_srun_are_refused(of_srun: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SLURM | of_srun).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"srun has started several tasks .* torchrun --no-python ci2p"):
        launched_as()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched_as() == ALONE


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "Error: not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), "not enough memory on the GPU"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "not enough memory on the GPU; give"),
        (OSError(12, "Cannot allocate memory"), "not enough memory"),
    ],
)
def test_no_memory_is_one_line(error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ci2p_cache.verify, "find_splits", fails)
    assert said in refused(call_ci2p("verify", ".", cwd=tmp_path), status=1)
    monkeypatch.setattr("pipeline.train.data.open_training_data", fails)
    line = refused(call_ci2p("train", "--shards", "x", cwd=tmp_path), status=1)
    assert "a smaller --batch-size" in line and f"--resident {'cpu' if 'GPU' in said else 'off'}" in line


def test_what_is_no_lack_of_memory_is_not_taken_for_it() -> None:
    assert not is_out_of_memory(RuntimeError("shape mismatch")) and not is_out_of_memory(OSError(2, "No such file"))


@pytest.mark.parametrize("text", ["mixup = " + "[" * 5000 + "]" * 5000, "mixup." + "a." * 5000 + "b = 1"])
def test_a_recipe_that_is_nested_for_pages_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "deep.toml").write_text(text)
    with pytest.raises(InputError, match=r"nested too deeply|should be a valid number"):
        load_recipe(tmp_path / "deep.toml")


def test_the_seconds_of_a_run_hold_its_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits for the one before it, and the training for the last; the steps between them are quick."""
    saved = []

    def save(run: Path, checkpoint: Checkpoint) -> None:
        time.sleep(0.5)
        saved.append(checkpoint.progress)

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", save)
    started = time.monotonic()
    result = train_toy(tmp_path, epochs=2, checkpoint_every_steps=2)
    assert 0.5 * len(saved) - 0.1 < result.seconds < time.monotonic() - started
