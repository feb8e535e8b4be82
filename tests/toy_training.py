"""A separable toy problem in memory and a small CI2P-ViT, for tests of the loop."""

# B batch, C latent channels (8), H=W latent grid (4)

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pipeline.models
from ci2p_cache.known_images import HeldOut, KnownImages, as_ids
from ci2p_cache.packed_strings import PackedStrings
from pipeline.models.variant import Variant
from pipeline.train.data import Share
from pipeline.train.loop import TrainResult, train
from pipeline.train.recipe import Recipe

# isort: split
import timm

CLASSES = ("left", "right", "neither")
SHAPE = (8, 4, 4)
# Every augmentation there is, for a grid of more than 6 x 6 cells.
EVERYTHING: dict[str, object] = {
    "mixup": 0.8,
    "cutmix": 1.0,
    "mixup_prob": 0.8,
    "erase": 0.5,
    "token_drop": 0.3,
    "window": 6,
    "ema_decay": 0.9,
}


class Killed(BaseException):
    """Stands for a SIGKILL: nothing in the library may catch it."""


@dataclass(frozen=True)
class ToyBatch:
    latents: Tensor
    labels: Tensor


@dataclass(frozen=True)
class ToyBatches:
    latents: Tensor
    labels: Tensor
    batch_size: int
    share: Share
    seed: int | None
    fault: tuple[str, int, int] | None  # ("kill", "nan" or "SIGTERM" ..., epoch, step)

    @property
    def steps_per_epoch(self) -> int:
        if self.seed is None:
            return -(-len(self.labels) // self.batch_size)
        return max(1, len(self.labels) // self.batch_size)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[ToyBatch]:
        order = torch.arange(len(self.labels))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(1000 * self.seed + epoch)
            order = torch.randperm(len(self.labels), generator=generator)
        for step in range(first_step, self.steps_per_epoch):
            if self.fault == ("kill", epoch, step):
                raise Killed
            if self.fault is not None and self.fault[0].startswith("SIG") and self.fault[1:] == (epoch, step):
                for name in self.fault[0].split():
                    os.kill(os.getpid(), signal.Signals[name])
            mine = order[step * self.batch_size : (step + 1) * self.batch_size][
                self.share.rank :: self.share.world_size
            ]
            latents = self.latents[mine]
            if self.fault == ("nan", epoch, step):
                latents = latents * float("nan")
            yield ToyBatch(latents.to(self.share.device), self.labels[mine].to(self.share.device))


@dataclass(frozen=True)
class ToyData:
    """40 training and 21 validation samples; a class is a direction among the channels, under noise."""

    fault: tuple[str, int, int] | None = None
    in_validation: bool = False
    fingerprint: str = "toy"
    path: str = "caches/toy"
    classes: tuple[str, ...] = CLASSES
    input_shape: tuple[int, int, int] = SHAPE
    num_train: int = 40
    window_shards: int = 0

    @property
    def spec(self) -> dict[str, Any]:
        return {"dataset": "toy"}

    def known_images(self) -> KnownImages:
        ids = as_ids(range(self.num_train))
        return KnownImages("name", ids, HeldOut(PackedStrings(["val"]), as_ids([0])))

    def train_batches(self, share: Share, *, batch_size: int, seed: int, flip: bool) -> ToyBatches:
        fault = None if self.in_validation else self.fault
        return ToyBatches(*_samples(self.num_train, 1, self.input_shape), batch_size, share, seed, fault)

    def val_batches(self, share: Share, *, batch_size: int) -> ToyBatches:
        fault = self.fault if self.in_validation else None
        return ToyBatches(*_samples(21, 2, self.input_shape), batch_size, share, None, fault)


def _samples(count: int, seed: int, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CLASSES)
    directions_KC = 4 * torch.eye(len(CLASSES), shape[0])
    noise = torch.randn(count, *shape, generator=generator)
    return noise + directions_KC[labels][:, :, None, None], labels


def build_small(
    name: str,
    *,
    num_classes: int,
    input_shape: tuple[int, int, int],
    drop_path: float,
    variant: Variant,
    pretrained: bool | str,
) -> nn.Module:
    """CI2P-ViT with two blocks of width 24."""
    assert pipeline.models.model_names() and variant == Variant() and not pretrained
    model: nn.Module = timm.create_model(
        name,
        num_classes=num_classes,
        latent_size=input_shape[1:],
        latent_channels=input_shape[0],
        drop_path_rate=drop_path,
        depth=2,
        embed_dim=24,
        num_heads=2,
    )
    return model


def toy_recipe(**settings: object) -> Recipe:
    """3 epochs of 5 steps and a checkpoint after each, with everything that draws random numbers switched on."""
    usual = {"model": "ci2p_vit_tiny", "epochs": 3, "batch_size": 8, "lr": 2e-3, "drop_path": 0.3}
    return Recipe.model_validate(usual | {"checkpoint_every_steps": 5} | settings)


def train_toy(
    run: Path, data: ToyData | None = None, *, loggers: Sequence[str] = (), **settings: object
) -> TrainResult:
    return train(toy_recipe(**settings), data or ToyData(), run, device="cpu", build=build_small, loggers=loggers)
