"""Augmentation: what is done to a batch of latents on the device, between the loader and the model.

    latents [B,C,H,W] -> erase a rectangle of cells here and there -> mix with the batch's other half -> the model
    labels  [B]       ------------------------------------------->  mix likewise, to shares [B,K] -> the loss

The order is timm's. Random windows come before it (`window`), dropped tokens after PatchReshape (`models.token_drop`).

Every draw is a function of a step's seed, and so of (seed, epoch, step), and of a sample's place in the global batch:
there is no state to save, and the number of ranks makes no difference. Each rank draws for all and takes its own.
A sample's partner is half a global batch further on, which is on the same rank wherever ranks have an even number of
samples. The draws are made on the host, so that they are the same on every device and no step waits for one. timm's own
Mixup takes its numbers from numpy's global state, where a seeded generator cannot reach, and mixes with the reversed
batch, whose partners lie on other ranks; what it does else in its mode "batch" ours does, and tests hold it equal.
"""

# B batch, C latent channels (192), H=W latent grid (16), K classes

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.train.recipe import Recipe

# Streams of random numbers: what one augmentation draws does not depend on whether another is on.
_ERASE_STREAM = 1
_MIX_STREAM = 2

# Of a random erasing: share of the grid's area, and height to width. Zhong et al., "Random Erasing"; timm's too.
_ERASED_AREA = (0.02, 1 / 3)
_ERASED_ASPECT = (0.3, 1 / 0.3)


def augment(
    latents_BCHW: Tensor,
    labels_B: Tensor,
    recipe: Recipe,
    *,
    num_classes: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> tuple[Tensor, Tensor]:
    """Erases and mixes as a recipe says; with both off, returns the very tensors that it was given.

    float32 [B,C,H,W] and int64 [B] -> float32 [B,C,H,W] and the targets: float32 [B,K] shares of each class, rows
    that sum to 1, where the recipe mixes; otherwise the labels. The arguments are left as they are.
    They are this rank's part of a global batch, sample i of which is on rank i mod `world_size`.
    """
    B, _, H, W = latents_BCHW.shape
    if recipe.erase > 0:
        rng = np.random.default_rng([_ERASE_STREAM, seed])
        rectangles = draw_rectangles(world_size * B, (H, W), recipe.erase, rng)
        latents_BCHW = erase(latents_BCHW, rectangles[rank::world_size])
    if recipe.mixup == 0 and recipe.cutmix == 0:
        return latents_BCHW, labels_B
    mix = draw_mix((H, W), recipe, np.random.default_rng([_MIX_STREAM, seed]))
    return mix_latents(latents_BCHW, mix), mix_labels(labels_B, mix, num_classes)


@dataclass(frozen=True)
class Mix:
    """How a batch is mixed with itself: each sample with the one half a batch further on, round the end."""

    share: float
    """Of a sample that is its own, in [0, 1]; the rest is its partner's. 1 leaves everything alone."""
    box: tuple[slice, slice] | None
    """Rows and columns of cells that cutmix takes from the partner; None blends whole grids."""


def draw_mix(grid: tuple[int, int], recipe: Recipe, rng: np.random.Generator) -> Mix:
    """One mix for a batch over a `grid` of [H,W] cells: mixup (Zhang et al.), cutmix (Yun et al.) or, by chance, none.

    Cutmix cuts a box of the grid's own shape and of 1 - share of its area, about a cell drawn evenly. The border clips
    it, and whole cells round it; the share that is returned is that of the cells in the end.
    """
    if rng.random() >= recipe.mixup_prob:
        return Mix(1.0, None)
    both = recipe.mixup > 0 and recipe.cutmix > 0
    cuts = rng.random() < recipe.switch_prob if both else recipe.cutmix > 0
    alpha = recipe.cutmix if cuts else recipe.mixup
    share = float(rng.beta(alpha, alpha))
    if not cuts:
        return Mix(share, None)
    rows, columns = (_draw_side(side, math.sqrt(1 - share), rng) for side in grid)
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return Mix(1 - area / (grid[0] * grid[1]), (rows, columns))


def _draw_side(side: int, ratio: float, rng: np.random.Generator) -> slice:
    length, centre = int(side * ratio), int(rng.integers(side))
    return slice(max(0, centre - length // 2), min(side, centre + (length + 1) // 2))


def mix_latents(latents_BCHW: Tensor, mix: Mix) -> Tensor:
    """float [B,C,H,W] -> the same, mixed."""
    if mix.share == 1:
        return latents_BCHW
    if mix.box is None:
        return torch.lerp(_partners(latents_BCHW), latents_BCHW, mix.share)
    cells = (slice(None), slice(None), *mix.box)
    mixed_BCHW = latents_BCHW.clone()
    mixed_BCHW[cells] = _partners(latents_BCHW[cells])
    return mixed_BCHW


def mix_labels(labels_B: Tensor, mix: Mix, num_classes: int) -> Tensor:
    """int64 [B] -> float32 [B,K], shares of the classes. The loss smooths them, which is as good as smoothing first."""
    # torch's one_hot first looks whether all labels are below `num_classes`, and waits for them.
    targets_BK = (labels_B[:, None] == torch.arange(num_classes, device=labels_B.device)).float()
    return torch.lerp(_partners(targets_BK), targets_BK, mix.share)


def _partners(each_B: Tensor) -> Tensor:
    return each_B.roll(-(len(each_B) // 2), 0)


def draw_rectangles(
    num_samples: int, grid: tuple[int, int], probability: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """A rectangle of cells for each sample with `probability`, else an empty one.

    int64 [B,4]: first row and the one after the last, first column and the one after the last. Area and aspect are
    drawn between the bounds above, the sides rounded to whole cells and clipped to the grid, the place is any.
    """
    area = rng.uniform(*_ERASED_AREA, num_samples) * grid[0] * grid[1]
    aspect = np.exp(rng.uniform(math.log(_ERASED_ASPECT[0]), math.log(_ERASED_ASPECT[1]), num_samples))
    is_erased = rng.random(num_samples) < probability
    bounds = []
    for side, exact in zip(grid, (np.sqrt(area * aspect), np.sqrt(area / aspect)), strict=True):
        length = np.clip(np.rint(exact), 1, side).astype(np.int64)
        begin = rng.integers(0, side - length + 1)
        bounds += [begin, begin + length * is_erased]
    return np.stack(bounds, axis=1)


def erase(latents_BCHW: Tensor, rectangles_B4: NDArray[np.int64]) -> Tensor:
    """Sets every channel of the cells in the rectangles to zero. Returns a new float [B,C,H,W].

    Zero is the centre of the codec's factorized prior: the value that most channels take most of the time, and near
    what an even grey encodes to. Unlike noise it needs no measure of each channel's spread.
    """
    _, _, H, W = latents_BCHW.shape
    bounds_4B1 = torch.from_numpy(rectangles_B4).to(latents_BCHW.device, non_blocking=True).T[..., None]
    rows_BH, columns_BW = _between(bounds_4B1[:2], H), _between(bounds_4B1[2:], W)
    return latents_BCHW.masked_fill((rows_BH[:, :, None] & columns_BW[:, None, :])[:, None], 0.0)


def _between(bounds_2B1: Tensor, side: int) -> Tensor:
    """Whether each of `side` cells lies at or after the first bound and before the second: bool [B,side]."""
    cells = torch.arange(side, device=bounds_2B1.device)
    return (cells >= bounds_2B1[0]) & (cells < bounds_2B1[1])
