"""Augmentation and averaged weights: what each does to cells, labels and weights; every draw a step's own; T3."""

import pipeline  # noqa: F401  (before timm: it sees to it that torchvision imports)

# isort: split
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import timm.data.mixup
import torch
from timm.loss import SoftTargetCrossEntropy
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ci2p_cache.cache import open_cache
from ci2p_cache.errors import InputError
from ci2p_cache.loader import BatchLoader
from pipeline.encode.encoder import load_encoder
from pipeline.models import Variant, create_model
from pipeline.models.token_drop import drop_tokens
from pipeline.train.augment import Mix, augment, draw_mix, draw_rectangles, erase, mix_labels, mix_latents
from pipeline.train.checkpoint import load_checkpoint
from pipeline.train.data import Batches, Share
from pipeline.train.launch import step_seed
from pipeline.train.recipe import Recipe
from pipeline.train.run_folder import read_config
from pipeline.train.trained_model import load_model
from pipeline.train.weight_average import WeightAverage
from pipeline.train.window import centre_window, random_windows, windowed
from tests.conftest import call_ci2p, encode_folder
from tests.equal_runs import assert_same_run, tensors_of
from tests.toy_training import EVERYTHING, Killed, ToyData, build_small, train_toy

GRID = (16, 16)
WIDE = (8, 8, 8)
"""Shape of the toy's samples where there is a window."""


def recipe_with(**settings: object) -> Recipe:
    return Recipe.model_validate(settings)


def numbered(num_samples: int, grid: tuple[int, int] = GRID) -> Tensor:
    """float32 [B,3,H,W] in which no value occurs twice, and none is zero."""
    return 1 + torch.arange(num_samples * 3 * grid[0] * grid[1]).float().view(num_samples, 3, *grid)


def draws(recipe: Recipe, count: int, grid: tuple[int, int] = GRID) -> list[Mix]:
    return [draw_mix(grid, recipe, np.random.default_rng(seed)) for seed in range(count)]


# Nothing


def test_a_recipe_without_augmentation_changes_nothing(tmp_path: Path) -> None:
    latents, labels = numbered(4), torch.arange(4)
    same = augment(latents, labels, Recipe(), num_classes=4, seed=1)
    assert same[0] is latents and same[1] is labels
    data = ToyData()
    assert windowed(data, 0) is data
    model = build_small(
        "ci2p_vit_tiny", num_classes=3, input_shape=data.input_shape, drop_path=0, variant=Variant(), pretrained=False
    )
    before = dict(model.named_modules())
    drop_tokens(model, 0.0)
    assert dict(model.named_modules()) == before
    train_toy(tmp_path, epochs=1)
    checkpoint = load_checkpoint(tmp_path / "last.ckpt")
    assert checkpoint is not None and checkpoint.ema == {}


# Mixing


@pytest.mark.parametrize("settings", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 2.0}])
def test_a_mix_is_timm_s(settings: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents, targets and loss, for the same draw."""
    recipe = recipe_with(label_smoothing=0.1, **settings)
    labels, logits = torch.tensor([3, 0, 2, 2, 1, 0]), torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    for mix in draws(recipe, 40):
        theirs = timm.data.Mixup(mixup_alpha=1, cutmix_alpha=1, label_smoothing=0.1, num_classes=5)
        monkeypatch.setattr(theirs, "_params_per_batch", lambda mix=mix: (mix.share, mix.box is not None))
        if mix.box is not None:
            rows, columns = mix.box
            box = (rows.start, rows.stop, columns.start, columns.stop)
            monkeypatch.setattr(timm.data.mixup, "rand_bbox", lambda *_, box=box, **__: box)
        latents = numbered(6)
        mirrored = [0, 1, 2, 5, 4, 3]  # in which partners are where theirs are
        expected, expected_targets = (each[mirrored] for each in theirs(latents[mirrored], labels[mirrored]))
        torch.testing.assert_close(mix_latents(latents, mix), expected, rtol=0, atol=1e-2)  # values from 1 to 4609
        targets = mix_labels(labels, mix, 5)
        torch.testing.assert_close(targets.sum(1), torch.ones(6))
        ours = cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
        torch.testing.assert_close(ours, SoftTargetCrossEntropy()(logits, expected_targets))
        assert torch.equal(latents, numbered(6))  # the argument is left as it is


def test_the_share_of_a_cut_is_that_of_its_cells_after_clipping() -> None:
    boxes = 0
    for mix in draws(recipe_with(cutmix=1.0), 200, grid=(6, 10)):
        assert mix.box is not None
        latents = numbered(5, (6, 10))
        mixed = mix_latents(latents, mix)
        for ours, partner, result in zip(latents, latents.roll(-2, 0), mixed, strict=True):
            is_cut = (result == partner)[0]
            assert 1 - is_cut.float().mean().item() == pytest.approx(mix.share)
            assert torch.equal(result, torch.where(is_cut, partner, ours))  # whole cells: all channels or none
        boxes += mix.share < 1
    assert boxes > 150


def test_shares_and_boxes_are_distributed_as_timm_s() -> None:
    np.random.seed(0)  # noqa: NPY002  (timm draws from it)
    theirs = [timm.data.mixup.cutmix_bbox_and_lam((1, *GRID), np.random.beta(1, 1)) for _ in range(6000)]  # noqa: NPY002
    ours = draws(recipe_with(cutmix=1.0), 6000)
    assert np.mean([mix.share for mix in ours]) == pytest.approx(np.mean([lam for _, lam in theirs]), abs=0.015)
    edges = [(mix.box[0].start, mix.box[0].stop, mix.box[1].start, mix.box[1].stop) for mix in ours if mix.box]
    timm_s = [(box[0], box[1], box[2], box[3]) for box, _ in theirs]
    assert np.allclose(np.mean(edges, axis=0), np.mean(timm_s, axis=0), atol=0.25)
    assert np.allclose(np.std(edges, axis=0), np.std(timm_s, axis=0), atol=0.25)


def test_how_often_a_batch_is_mixed_and_cut() -> None:
    both = draws(recipe_with(mixup=1.0, cutmix=1.0, mixup_prob=0.6, switch_prob=0.25), 4000)
    assert sum(mix != Mix(1.0, None) for mix in both) / 4000 == pytest.approx(0.6, abs=0.03)
    assert sum(mix.box is not None for mix in both) / 4000 == pytest.approx(0.6 * 0.25, abs=0.03)
    assert all(mix.box is None for mix in draws(recipe_with(mixup=1.0), 200))
    assert all(mix.box is not None for mix in draws(recipe_with(cutmix=1.0, switch_prob=0.0), 200))
    unmixed = augment(numbered(4), torch.arange(4), recipe_with(mixup=1.0, mixup_prob=0.0), num_classes=4, seed=0)
    assert torch.equal(unmixed[0], numbered(4)) and torch.equal(unmixed[1], torch.eye(4))


# Erasing


@pytest.mark.parametrize("grid", [GRID, (4, 4), (6, 20)])
def test_an_erased_rectangle_is_of_whole_cells_and_nothing_else_changes(grid: tuple[int, int]) -> None:
    latents = numbered(400, grid)
    rectangles = draw_rectangles(400, grid, 0.7, np.random.default_rng(3))
    erased = erase(latents, rectangles)
    is_zero = erased == 0
    assert torch.equal(is_zero.all(1), is_zero.any(1))
    assert torch.equal(erased, torch.where(is_zero, 0.0, latents)) and (latents != 0).all()
    cells = is_zero[:, 0]
    for sample, (top, bottom, left, right) in zip(cells, rectangles.tolist(), strict=True):
        assert 0 <= top <= bottom <= grid[0] and 0 <= left <= right <= grid[1]
        assert sample.sum() == (bottom - top) * (right - left) == sample[top:bottom, left:right].sum()
    assert (cells.flatten(1).sum(1) > 0).float().mean().item() == pytest.approx(0.7, abs=0.07)
    assert cells.any(0).all()  # every place is reached


def test_the_area_of_a_rectangle_keeps_to_its_bounds() -> None:
    rectangles = draw_rectangles(4000, GRID, 1.0, np.random.default_rng(0))
    sides = np.stack([rectangles[:, 1] - rectangles[:, 0], rectangles[:, 3] - rectangles[:, 2]])
    share = sides.prod(0) / 256
    assert sides.min() >= 1 and sides.max() <= 16
    assert share.min() > 0.01 and share.max() < 0.37  # a side is rounded by half a cell at most
    assert share.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.01)
    aspect = sides[0] / sides[1]
    assert np.median(aspect) == pytest.approx(1, abs=0.1) and aspect.min() < 0.4 and aspect.max() > 2.5


def test_zero_is_near_what_an_even_grey_encodes_to() -> None:
    """What an erased cell is filled with is nothing that the model never meets."""
    latents = load_encoder("bundled", "cpu")(torch.full((1, 3, 128, 128), 128, dtype=torch.uint8))
    assert (latents[0, :, 4, 4].round() != 0).sum() <= 19  # a tenth of the channels


# Windows


def test_random_windows_are_slices_and_every_place_is_as_likely() -> None:
    latents = numbered(3000, (6, 8))
    windows = random_windows(latents, 4, np.random.default_rng(1))
    rng = np.random.default_rng(1)
    tops, lefts = rng.integers(0, 3, 3000), rng.integers(0, 5, 3000)
    for window, whole, top, left in zip(windows, latents, tops, lefts, strict=True):
        assert torch.equal(window, whole[:, top : top + 4, left : left + 4])
    places = np.bincount(5 * tops + lefts, minlength=15)
    assert places.min() > 150 and places.max() < 250
    assert windows.is_contiguous(memory_format=torch.channels_last)


def test_the_centre_is_the_centre() -> None:
    latents = numbered(2, (20, 21))
    assert torch.equal(centre_window(latents, 16), latents[:, :, 2:18, 2:18])
    assert torch.equal(centre_window(latents, 20), latents[:, :, :, 0:20])


@dataclass(frozen=True)
class Given:
    latents: Tensor
    labels: Tensor


@dataclass(frozen=True)
class SameBatches:
    """One batch, over and over."""

    batch: Given
    steps_per_epoch: int = 3

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Given]:
        yield from [self.batch] * (self.steps_per_epoch - first_step)


class SameData(ToyData):
    def train_batches(self, share: Share, *, batch_size: int, seed: int, flip: bool) -> Batches:
        return SameBatches(Given(numbered(batch_size, (8, 8)), torch.arange(batch_size)))


def windows_of(seed: int, rank: int, epoch: int, first_step: int = 0) -> list[Tensor]:
    share = Share(rank, 2, torch.device("cpu"))
    batches = windowed(SameData(input_shape=WIDE), 4).train_batches(share, batch_size=32, seed=seed, flip=True)
    assert batches.steps_per_epoch == 3
    return [batch.latents for batch in batches.epoch(epoch, first_step)]


def test_a_window_s_place_is_a_function_of_seed_epoch_step_and_sample() -> None:
    first = windows_of(seed=5, rank=0, epoch=1)
    assert all(torch.equal(a, b) for a, b in zip(first, windows_of(5, 0, 1), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first[2:], windows_of(5, 0, 1, first_step=2), strict=True))
    others = [*windows_of(6, 0, 1), *windows_of(5, 1, 1), *windows_of(5, 0, 2), *first]
    assert len({tuple(window[:, 0, 0, 0].tolist()) for window in others}) == 12


def test_windowed_data_tell_the_window_s_shape_and_validate_on_the_centre() -> None:
    data = ToyData(input_shape=WIDE)
    seen = windowed(data, 4)
    assert seen.input_shape == (8, 4, 4) and (seen.num_train, seen.classes) == (40, data.classes)
    share = Share(0, 1, torch.device("cpu"))
    whole, centre = (each.val_batches(share, batch_size=8) for each in (data, seen))
    assert whole.steps_per_epoch == centre.steps_per_epoch
    for before, after in zip(whole.epoch(0), centre.epoch(0), strict=True):
        assert torch.equal(after.latents, before.latents[:, :, 2:6, 2:6]) and torch.equal(after.labels, before.labels)


def test_windows_that_cannot_be_are_refused_by_name(tmp_path: Path) -> None:
    message = r"^window = 24 is larger than the 20x20 latents of this cache; give 20 or less, or encode with "
    with pytest.raises(InputError, match=message + r"--image-size 384 or more$"):
        windowed(ToyData(input_shape=(192, 20, 20)), 24)
    with pytest.raises(InputError, match=r"^window = 16 is for latents, and these are pixels \[3, 256, 256\]; give 0$"):
        windowed(ToyData(input_shape=(3, 256, 256)), 16)
    with pytest.raises(InputError, match="window = 6 is larger than the 4x4 latents"):
        train_toy(tmp_path / "run", window=6)
    assert not (tmp_path / "run").exists()


# Draws


def test_the_draws_of_a_step_are_its_own() -> None:
    recipe = recipe_with(mixup=0.8, cutmix=1.0, erase=0.5)
    steps = [(seed, epoch, step) for seed in (0, 1) for epoch in (0, 1) for step in (0, 1)]

    def of(step: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        return augment(numbered(8), torch.arange(8), recipe, num_classes=8, seed=step_seed(*step))

    torch.manual_seed(1)
    first = [of(step) for step in steps]
    state = torch.get_rng_state()
    again = [of(step) for step in reversed(steps)][::-1]
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from, or left in, a global state
    for (latents, targets), (latents_again, targets_again) in zip(first, again, strict=True):
        assert torch.equal(latents, latents_again) and torch.equal(targets, targets_again)
    assert len({latents.numpy().tobytes() for latents, _ in first}) == len(steps)


def test_an_augmentation_draws_the_same_beside_another() -> None:
    alone, beside = (recipe_with(mixup=0.8, erase=probability) for probability in (0.0, 0.5))
    targets = [augment(numbered(8), torch.arange(8), each, num_classes=8, seed=9)[1] for each in (alone, beside)]
    assert torch.equal(*targets)


# Dropped tokens


@pytest.mark.parametrize(
    ("name", "shape", "kept"),
    [
        ("ci2p_vit_tiny", (192, 16, 16), 48),
        ("vit_tiny_patch16_224", (192, 16, 16), 49),  # and its class token
        ("deit_tiny_distilled_patch16_224", (192, 16, 16), 50),  # and its two
        ("cnn_vit_tiny", (3, 128, 128), 12),
    ],
)
def test_training_drops_tokens_and_evaluation_none(name: str, shape: tuple[int, int, int], kept: int) -> None:
    model = create_model(name, num_classes=3, input_shape=shape)
    weights = set(model.state_dict())
    drop_tokens(model, 0.25)
    assert set(model.state_dict()) == weights
    vit = getattr(model, "vit", model)
    seen: list[int] = []
    vit.blocks[0].register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape[1]))
    samples = torch.zeros(2, *shape)
    with torch.no_grad():
        model.train()(samples)
        model.eval()(samples)
    assert seen[0] == kept and seen[1] > kept


def test_a_model_that_needs_its_tokens_says_so() -> None:
    model = create_model("ci2p_vit_ds", num_classes=3)
    with pytest.raises(InputError, match=r"^token_drop = 0\.5: DualScaleVit needs all of its tokens; leave token_drop"):
        drop_tokens(model, 0.5)


# Averaged weights


def test_an_average_by_hand() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    linear, norm = model[0], model[1]
    average = WeightAverage(model, decay=0.5)
    weight = mean = 0.0
    for step, (value, decay) in enumerate([(4.0, 0.0), (2.0, 1 - 2 ** (-2 / 3)), (8.0, 0.5), (1.0, 0.5)]):
        with torch.no_grad():
            linear.weight.fill_(value)
            norm.running_mean.fill_(-value)
            norm.num_batches_tracked.fill_(step)
        average.update(step)
        weight, mean = decay * weight + (1 - decay) * value, decay * mean - (1 - decay) * value
        state = average.state_dict()
        assert state["0.weight"].item() == pytest.approx(weight, rel=1e-6)
        assert state["1.running_mean"].item() == pytest.approx(mean, rel=1e-6)
        assert state["1.num_batches_tracked"] == step
    assert linear.weight.item() == 1.0


def test_an_average_is_timm_s_to_the_bit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5))
    ours, theirs = WeightAverage(model, decay=0.9), ModelEmaV3(model, decay=0.9, use_warmup=True)
    for step in range(40):
        model(torch.randn(4, 7))
        with torch.no_grad():
            model[0].weight.add_(torch.randn(5, 7))
        ours.update(step)
        theirs.update(model, step=step + 1)
        for name, value in theirs.module.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), (name, step)


def share_right(model: nn.Module) -> float:
    """Top-1 on the toy's validation samples."""
    batches = ToyData().val_batches(Share(0, 1, torch.device("cpu")), batch_size=8).epoch(0)
    with torch.no_grad():
        return sum(int((model(batch.latents).argmax(1) == batch.labels).sum()) for batch in batches) / 21


def test_averaging_leaves_learning_alone_and_is_what_is_evaluated_and_kept(tmp_path: Path) -> None:
    settings = {"epochs": 1, "warmup_epochs": 0, "seed": 1}  # so early that weights and average differ in top-1
    train_toy(tmp_path / "plain", **settings)
    run = tmp_path / "averaged"
    result = train_toy(run, ema_decay=0.9, **settings)
    plain, averaged = load_checkpoint(tmp_path / "plain" / "last.ckpt"), load_checkpoint(run / "last.ckpt")
    assert plain is not None and averaged is not None
    assert all(torch.equal(value, averaged.model[name]) for name, value in plain.model.items())
    assert averaged.ema.keys() == averaged.model.keys()

    best, last, raw = (load_model(path, build_small)[0] for path in (run, run / "last.ckpt", tmp_path / "plain"))
    for name, value in averaged.ema.items():
        assert torch.equal(best.state_dict()[name], value) and torch.equal(last.state_dict()[name], value)
    assert result.final_top1 == result.best_top1 == pytest.approx(share_right(best))
    assert share_right(best) != share_right(raw)


# All together


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    train_toy(run, ToyData(input_shape=WIDE), **EVERYTHING)
    return run


@pytest.mark.parametrize(("epoch", "step", "every"), [(0, 3, 2), (1, 0, 0), (2, 4, 1)])
def test_t3_holds_with_everything_on(whole_run: Path, tmp_path: Path, epoch: int, step: int, every: int) -> None:
    run, data = tmp_path / "run", ToyData(input_shape=WIDE)
    with pytest.raises(Killed):
        train_toy(
            run, ToyData(input_shape=WIDE, fault=("kill", epoch, step)), **EVERYTHING, checkpoint_every_steps=every
        )
    torch.manual_seed(12345)
    np.random.rand(3)  # noqa: NPY002  (whatever else the process drew meanwhile)
    assert train_toy(run, data, **EVERYTHING, checkpoint_every_steps=every).finished
    assert_same_run(run, whole_run)
    checkpoint = load_checkpoint(run / "last.ckpt")
    assert checkpoint is not None and tensors_of(checkpoint.ema)


def test_each_of_them_changes_the_run(tmp_path: Path) -> None:
    def weights_after_an_epoch(name: str, **settings: object) -> Tensor:
        train_toy(tmp_path / name, ToyData(input_shape=WIDE), **(EVERYTHING | {"epochs": 1} | settings))
        checkpoint = load_checkpoint(tmp_path / name / "last.ckpt")
        assert checkpoint is not None
        weights: Tensor = checkpoint.model["head.weight"]
        return weights

    whole = weights_after_an_epoch("whole")
    for name, off in {"mixup": 0, "cutmix": 0, "mixup_prob": 1.0, "erase": 0, "token_drop": 0, "window": 0}.items():
        assert not torch.equal(weights_after_an_epoch(name, **{name: off}), whole), name


def test_it_learns_with_everything_on(tmp_path: Path) -> None:
    result = train_toy(tmp_path, ToyData(input_shape=WIDE), **EVERYTHING, epochs=8, drop_path=0.0)
    assert result.final_top1 is not None and result.final_top1 >= 0.95


def test_a_run_with_a_window_is_loaded_with_it(whole_run: Path) -> None:
    model, config = load_model(whole_run, build_small)
    assert config.data.input_shape == (8, 6, 6) and read_config(whole_run).recipe.window == 6
    latents = torch.randn(4, *WIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(latents), model(latents[:, :, 1:7, 1:7]))
        torch.testing.assert_close(model(latents), model.get_submodule("model")(latents[:, :, 1:7, 1:7]))


def test_evaluation_and_prediction_see_the_centre_window(image_folder: Path, tmp_path: Path) -> None:
    """On latents of 6 x 6, a model of 4 x 4: from the cache, from raw images, and of one image file."""
    encode_folder(image_folder, tmp_path / "cache", image_size=96)
    settings = ("--epochs", "1", "--batch-size", "7", "--set", "window=4", "--set", "warmup_epochs=0")
    trained = call_ci2p(
        *("train", "--shards", "cache", "--model", "ci2p_vit_tiny", "--lr", "1e-3", "--device", "cpu"),
        *(*settings, "--out", "run", "--json", "train.json"),
        cwd=tmp_path,
    )
    assert trained.returncode == 0, trained.stderr
    best_top1 = json.loads((tmp_path / "train.json").read_text())["best_top1"]
    evaluate = ("eval", "--checkpoint", "run", "--device", "cpu", "--json", "-", "--workers", "0")
    on_cache, on_images = (
        json.loads(call_ci2p(*evaluate, *source, cwd=tmp_path).stdout) for source in ((), ("--images", image_folder))
    )
    assert on_cache["top1"] == pytest.approx(best_top1, abs=1e-6)
    assert on_cache["confusion"] == on_images["confusion"]

    image = image_folder / "val" / "blue" / "000.png"
    predicted = call_ci2p("predict", image, "--checkpoint", "run", "--device", "cpu", "--json", "-", cwd=tmp_path)
    model, config = load_model(tmp_path / "run")
    assert config.data.input_shape == (192, 4, 4) and config.data.spec["image_size"] == 96
    shares = torch.tensor([json.loads(predicted.stdout)[str(image)][name] for name in config.data.classes])
    batch = next(iter(BatchLoader(open_cache(tmp_path / "cache", "val"), batch_size=9, shuffle=False).epoch(0)))
    inner = model.get_submodule("model")
    with torch.no_grad():
        central, whole = (inner(cells).softmax(1) for cells in (batch.latents[:, :, 1:5, 1:5], batch.latents))
    assert (central - shares).abs().amax(1).min() < 1e-5 < (whole - shares).abs().amax(1).min()
