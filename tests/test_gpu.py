"""What must hold on a GPU, held against the CPU: `pytest -m gpu`. Without a card every test is skipped by name.

None of these has run on a card yet: bounds are what the arithmetic lets expect.
"""

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ci2p_cache.cache import open_cache
from ci2p_cache.loader import BatchLoader
from pipeline.baselines.on_the_fly import encode_on_the_fly
from pipeline.encode.encoder import Encoder, load_encoder
from pipeline.encode.stored_batch import StoredBatch
from pipeline.models.global_batch import GlobalBatchNorm
from pipeline.running.tf32 import float32_products
from pipeline.train.checkpoint import load_checkpoint
from pipeline.train.checkpoint_writer import HostCopy
from pipeline.train.data import Share
from pipeline.train.loop import train
from pipeline.train.metrics_log import read_metrics
from pipeline.train.run_folder import read_config
from tests.conftest import encode_folder, run_python, write_image_folder
from tests.test_baseline import pixel_data
from tests.test_learner import everything
from tests.test_processes import ENCODE
from tests.toy_training import EVERYTHING, ToyData, build_small, toy_recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("gpu"), train=9, val=4)


def test_float32_integers_are_the_cpu_s() -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), dtype=np.uint8)
    pixels_B3SS = torch.from_numpy(coarse.repeat(8, axis=2).repeat(8, axis=3))
    theirs, ours = (load_encoder("bundled", device)(pixels_B3SS).cpu().round() for device in ("cpu", "cuda"))
    assert (ours != theirs).float().mean() < 1e-4  # with TF32 it is 4e-4 to 8e-4
    assert (ours - theirs).abs().max() <= 1
    assert torch.equal(load_encoder("bundled", "cuda")(pixels_B3SS).cpu().round(), ours)


def test_bfloat16_integers_are_few_others() -> None:
    """As few as on a CPU, where it is 0.4 % of those of photographs: squares and roots are bfloat16 there, too."""
    coarse = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), dtype=np.uint8)
    pixels_B3SS = torch.from_numpy(coarse.repeat(8, axis=2).repeat(8, axis=3))
    exact = load_encoder("bundled", "cpu")(pixels_B3SS).round()
    shares = [
        float((load_encoder("bundled", device, "bfloat16")(pixels_B3SS).cpu().round() != exact).float().mean())
        for device in ("cpu", "cuda")
    ]
    assert 0 < shares[1] < 1.3 * shares[0]


@pytest.mark.parametrize(("store", "step"), [("int", 1.0), ("int", 0.37), ("float16", None)])
def test_what_is_stored_is_the_cpu_s_however_many_batches_are_under_way(store: str, step: float | None) -> None:
    rng = np.random.default_rng(0)
    latents_NCHW = torch.from_numpy((rng.standard_t(1.5, (16, 192, 16, 16)) * 9).astype(np.float32))  # with escapes
    spec = SimpleNamespace(store=store, step=step, views=("plain", "mirror"))
    pixels_RB3SS = torch.zeros(2, 8, 3, 256, 256, dtype=torch.uint8)

    def begun(device: str) -> list[StoredBatch]:
        """Three, of other latents each, before any is waited for."""
        given = iter([latents_NCHW.roll(turn, 0).to(device) for turn in range(6)])
        encoder = Encoder(lambda _: next(given), "0", torch.device(device), "float32")
        return [StoredBatch(encoder, pixels_RB3SS, spec) for _ in range(3)]  # type: ignore[arg-type]

    for ours, theirs in zip(begun("cuda"), begun("cpu"), strict=True):
        for place in range(8):
            (here, *rest), (there, *others) = ours.image(place), theirs.image(place)
            assert all(map(np.array_equal, here, there)) and rest == others
    assert store == "float16" or others[0]


@pytest.mark.parametrize("step", [1.0, 0.05])  # the second has escapes
def test_a_cache_is_read_the_same_wherever_it_is_held(images: Path, tmp_path: Path, step: float) -> None:
    split = open_cache(encode_folder(images, tmp_path / "cache", step=step), "train")

    def batches(device: str, resident: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        loader = BatchLoader(split, batch_size=4, seed=3, device=device, resident=resident)  # type: ignore[arg-type]
        return [(batch.latents.cpu(), batch.labels.cpu()) for epoch in range(2) for batch in loader.epoch(epoch)]

    expected = batches("cpu", "off")
    for resident in ("off", "cpu", "cuda", "auto"):
        for (ours, our_labels), (theirs, their_labels) in zip(batches("cuda", resident), expected, strict=True):
            assert torch.equal(ours, theirs) and torch.equal(our_labels, their_labels), resident


@pytest.mark.parametrize("settings", [{"resident": "cpu"}, {"resident": "off", "workers": 2, "crops": "fresh"}])
def test_pixels_are_the_cpu_s_and_so_are_their_latents(images: Path, settings: dict[str, object]) -> None:
    pixels = pixel_data(images, **settings)
    for data in (pixels, encode_on_the_fly(pixels)):
        ours, theirs = (
            list(data.train_batches(Share(0, 1, torch.device(device)), batch_size=8, seed=1, flip=True).epoch(1))
            for device in ("cuda", "cpu")
        )
        for here, there in zip(ours, theirs, strict=True):
            assert torch.equal(here.labels.cpu(), there.labels)
            changed = here.latents.cpu() != there.latents
            assert changed.float().mean() < (1e-4 if data is not pixels else 1e-9)


def test_float32_training_is_the_cpu_s(tmp_path: Path) -> None:
    losses = []
    for device in ("cpu", "cuda"):
        recipe = toy_recipe(drop_path=0.0, precision="float32")
        train(recipe, ToyData(), tmp_path / device, device=device, build=build_small)
        losses.append([line["train_loss"] for line in read_metrics(tmp_path / device)])
    assert losses[1] == pytest.approx(losses[0], abs=0.02)


def test_tf32_rounds_products_and_convolutions_and_nothing_else_does() -> None:
    x, kernel = torch.randn(256, 256, device="cuda"), torch.randn(64, 64, 3, 3, device="cuda")
    images = torch.randn(4, 64, 32, 32, device="cuda").contiguous(memory_format=torch.channels_last)
    exact = x.double() @ x.double(), torch.nn.functional.conv2d(images.double(), kernel.double())
    for is_tf32, bounds in ((False, (0, 1e-5)), (True, (1e-5, 1e-2))):
        with float32_products(tf32=is_tf32):
            found = x @ x, torch.nn.functional.conv2d(images, kernel)
        for ours, theirs in zip(found, exact, strict=True):
            error = float((ours - theirs).abs().max() / theirs.abs().max())
            assert bounds[0] <= error < bounds[1], (is_tf32, error)


def test_no_step_waits_for_the_card() -> None:
    settings = EVERYTHING | {"grad_clip": 1.0, "precision": "bfloat16", "window": 0}
    learner, batch = everything(toy_recipe(**settings), "cuda")
    learner.learn(batch, 0, seed=0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(1, 4):
            learner.learn(batch, step, seed=step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, True])
def test_statistics_of_all_processes_on_a_card(tmp_path: Path, dtype: torch.dtype, compiled: bool) -> None:
    """Of one, through NCCL: what torch's own layer computes."""
    x_BCHW = (5 + torch.randn(32, 16, 8, 8, device="cuda")).to(dtype, memory_format=torch.channels_last)
    theirs = torch.nn.BatchNorm2d(16, device="cuda")
    ours = copy.deepcopy(torch.nn.Sequential(theirs))
    torch.distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        ours[0] = GlobalBatchNorm(ours[0], world_size=1)
        runs = []
        for norm in (torch.compile(ours, fullgraph=True) if compiled else ours, theirs):
            leaf = x_BCHW.clone().requires_grad_()
            out = norm(leaf)
            (out.float() ** 3).sum().backward()
            runs.append((out.float(), leaf.grad.float()))
    finally:
        torch.distributed.destroy_process_group()
    bound = 1e-4 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(runs[0], runs[1], rtol=bound, atol=bound)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours[0].state_dict()[name], value, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[0].weight.grad, theirs.weight.grad, rtol=bound, atol=bound)


def test_a_card_s_checkpoint_goes_on_without_it(tmp_path: Path) -> None:
    """And the other way round: the kernels of the optimiser are the device's, its state is not."""
    recipe = toy_recipe(precision="float32", ema_decay=0.9)
    for number in range(100):
        device = ("cuda", "cpu")[number % 2]
        if train(recipe, ToyData(), tmp_path, device=device, max_minutes=0, build=build_small).finished:
            return
    raise AssertionError("it never ends")


def test_a_run_on_a_card_takes_what_suits_it(tmp_path: Path) -> None:
    train(toy_recipe(epochs=1), ToyData(), tmp_path, device="cuda", build=build_small)
    is_ampere = torch.cuda.get_device_capability() >= (8, 0)
    assert (read_config(tmp_path).recipe.precision == "bfloat16") == is_ampere


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "tf32"},
        {"precision": "bfloat16"},
        {"precision": "float16", "grad_clip": 1.0},
        {"precision": "bfloat16", "compile": True, "ema_decay": 0.9, "grad_clip": 1.0, "mixup": 0.8},
        {"precision": "float16", "compile": "reduce-overhead", "ema_decay": 0.9, "grad_clip": 1.0, "cutmix": 0.8},
        {"precision": "bfloat16", "optimizer": "nadamuon"},
    ],
    ids=["tf32", "bfloat16", "float16 and clipping", "compiled", "CUDA graphs", "nadamuon"],
)
def test_a_run_that_is_stopped_goes_on_to_the_same_end(tmp_path: Path, settings: dict[str, object]) -> None:
    recipe = toy_recipe(**settings)
    assert train(recipe, ToyData(), tmp_path / "whole", device="cuda", build=build_small).finished
    for _ in range(100):
        if train(recipe, ToyData(), tmp_path / "run", device="cuda", max_minutes=0, build=build_small).finished:
            break
    ours, theirs = (load_checkpoint(tmp_path / run / "last.ckpt") for run in ("run", "whole"))
    assert ours is not None and theirs is not None and ours.progress.epoch == theirs.progress.epoch
    for name, value in theirs.model.items():  # sums on a GPU come in no fixed order
        torch.testing.assert_close(ours.model[name].float(), value.float(), rtol=0.05, atol=0.02)


def test_a_host_copy_is_of_before_the_next_step(tmp_path: Path) -> None:
    weights = torch.nn.Conv2d(64, 64, 3).to("cuda", memory_format=torch.channels_last)
    expected = {name: value.cpu().clone() for name, value in weights.state_dict().items()}
    torch.cuda._sleep(100_000_000)  # the copy waits behind this, and what comes next behind the copy
    copied = HostCopy({"model": weights.state_dict(), "lr": [0.1]})
    for value in weights.state_dict().values():
        value.zero_()
    found = copied.get()
    assert found["lr"] == [0.1]
    for name, value in expected.items():
        assert torch.equal(found["model"][name], value) and found["model"][name].is_pinned()
        assert found["model"][name].stride() == value.stride()


def test_the_commands_on_a_card(images: Path, tmp_path: Path) -> None:
    for command in (
        [*ENCODE[:4], str(images), *ENCODE[5:], "--out", "cache", "--device", "cuda"],
        ["train", "cache", "--model", "ci2p_vit_tiny", "--epochs", "1", "--batch-size", "8", "--resident", "cuda"],
        ["eval", "--device", "cuda"],
        ["eval", "--images", str(images), "--device", "cuda"],
    ):
        done = run_python("-m", "ci2p", *command, cwd=tmp_path)
        assert done.returncode == 0 and "Traceback" not in done.stderr, (command, done.stderr)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_cards_learn_what_one_does(images: Path, tmp_path: Path) -> None:
    cache = encode_folder(images, tmp_path / "cache", image_size=64)
    losses = []
    for count in (1, 2):
        run = tmp_path / f"run{count}"
        command = ["train", str(cache), "--model", "ci2p_vit_tiny", "--epochs", "2", "--batch-size", "8"]
        done = run_python(
            *("-m", "ci2p"),
            *command,
            "--set",
            "drop_path=0.0",
            "--precision",
            "float32",
            "--out",
            str(run),
            "--gpus",
            str(count),
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        losses.append([line["train_loss"] for line in read_metrics(run)])
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
