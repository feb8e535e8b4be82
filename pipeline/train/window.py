"""Window: a square part of the latents' grid, drawn at random for every training sample and central in evaluation.

    cache of 320-pixel images: latents [B,192,20,20] -> window = 16 -> latents [B,192,16,16], the model's input

It is what a random crop is to pixels, at the price of reading a larger cache and of no encoding: to move a window by a
cell is to move the image by the encoder's stride, 16 pixels. A window may begin at any cell. PatchReshape's stride of
two asks for even sides alone, since it counts from the window's own corner; beginning at even cells only would leave
9 places of the 25 that a 16 x 16 window has in 20 x 20, and never move an image by half a token. Cells at a window's
border have seen some pixels beyond it, in training as in evaluation.
"""

# B batch, C latent channels (192), H=W latent grid (20), h=w window (16)

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ci2p_cache.errors import InputError
from ci2p_cache.known_images import KnownImages
from pipeline.train.data import Batch, Batches, Share, TrainingData
from pipeline.train.launch import step_seed
from pipeline.transforms import PIXEL_CHANNELS, PIXELS_PER_LATENT

# Of random numbers; `augment` has one and two.
_WINDOW_STREAM = 3


def centre_window(latents_BCHW: Tensor, size: int) -> Tensor:
    """float [B,C,H,W] -> a view of its centre, float [B,C,size,size]; where a margin is odd, the upper left one."""
    top, left = ((side - size) // 2 for side in latents_BCHW.shape[-2:])
    return latents_BCHW[..., top : top + size, left : left + size]


def random_windows(
    latents_BCHW: Tensor, size: int, rng: np.random.Generator, rank: int = 0, world_size: int = 1
) -> Tensor:
    """float [B,C,H,W] -> a window of each sample, every place as likely: float [B,C,size,size], channels-last.

    The samples are this rank's of a global batch, for all of which places are drawn: on the host, the same whatever the
    device. The cells are gathered on the device.
    """
    B, _, H, W = latents_BCHW.shape
    places = [rng.integers(0, side - size + 1, world_size * B)[rank::world_size] for side in (H, W)]
    tops_B, lefts_B = (torch.from_numpy(each.copy()) for each in places)
    cells = torch.arange(size)
    samples_B11 = torch.arange(B)[:, None, None]
    rows_Bh1, columns_B1w = (tops_B[:, None] + cells)[:, :, None], (lefts_B[:, None] + cells)[:, None, :]
    index = [part.to(latents_BCHW.device, non_blocking=True) for part in (samples_B11, rows_Bh1, columns_B1w)]
    windows_BhwC = latents_BCHW[index[0], :, index[1], index[2]]
    return windows_BhwC.permute(0, 3, 1, 2)


class ThroughWindow(nn.Module):
    """A model that takes the centre window of whatever latents it is given."""

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.model = model
        self.size = size

    def forward(self, latents_BCHW: Tensor) -> Tensor:
        """float [B,C,H,W] -> the model's logits [B,K] for the centre."""
        logits_BK: Tensor = self.model(centre_window(latents_BCHW, self.size))
        return logits_BK


def windowed(data: TrainingData, size: int) -> TrainingData:
    """`data` seen through windows of `size` cells a side; 0 is `data` itself.

    Raises InputError when a window does not fit into the grid, or the data are pixels.
    """
    if size == 0:
        return data
    channels, height, width = data.input_shape
    if channels == PIXEL_CHANNELS:
        raise InputError(f"window = {size} is for latents, and these are pixels {[channels, height, width]}; give 0")
    if size > min(height, width):
        raise InputError(
            f"window = {size} is larger than the {height}x{width} latents of this cache; give {min(height, width)} or "
            f"less, or encode with --image-size {PIXELS_PER_LATENT * size} or more"
        )
    return WindowedData(data, size)


@dataclass(frozen=True)
class WindowedData:
    """Training data whose samples are windows of another's: random ones to train on, central ones to validate."""

    data: TrainingData
    size: int

    @property
    def path(self) -> str:
        return self.data.path

    @property
    def fingerprint(self) -> str:
        return self.data.fingerprint

    @property
    def window_shards(self) -> int:
        return self.data.window_shards

    @property
    def spec(self) -> dict[str, Any]:
        return self.data.spec

    @property
    def classes(self) -> tuple[str, ...]:
        return self.data.classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.data.input_shape[0], self.size, self.size)

    @property
    def num_train(self) -> int:
        return self.data.num_train

    def known_images(self) -> KnownImages:
        return self.data.known_images()

    def train_batches(self, share: Share, *, batch_size: int, seed: int, flip: bool) -> Batches:
        batches = self.data.train_batches(share, batch_size=batch_size, seed=seed, flip=flip)
        return _RandomWindows(batches, self.size, seed, share)

    def val_batches(self, share: Share, *, batch_size: int) -> Batches:
        return _CentreWindows(self.data.val_batches(share, batch_size=batch_size), self.size)


@dataclass(frozen=True)
class _Windows:
    """A batch of windows."""

    latents: Tensor
    labels: Tensor


@dataclass(frozen=True)
class _RandomWindows:
    batches: Batches
    size: int
    seed: int
    share: Share

    @property
    def steps_per_epoch(self) -> int:
        return self.batches.steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        for step, batch in enumerate(self.batches.epoch(epoch, first_step), start=first_step):
            rng = np.random.default_rng([_WINDOW_STREAM, step_seed(self.seed, epoch, step)])
            share = self.share
            yield _Windows(random_windows(batch.latents, self.size, rng, share.rank, share.world_size), batch.labels)


@dataclass(frozen=True)
class _CentreWindows:
    batches: Batches
    size: int

    @property
    def steps_per_epoch(self) -> int:
        return self.batches.steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        for batch in self.batches.epoch(epoch, first_step):
            yield _Windows(centre_window(batch.latents, self.size), batch.labels)
