"""Latents without a cache: the frozen encoder runs in every training step. For comparison only.

uint8 pixels on the device, mirrored, or a fresh crop --frozen encoder--> latents --rounded to steps--> what a cache
of these pictures would give back
"""

# B batch, C latent channels (192), H=W latent grid, S image size

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ci2p_cache import codecs
from ci2p_cache.claim import spec_of_settings
from ci2p_cache.known_images import KnownImages
from ci2p_cache.spec import CacheSpec, hash_items
from pipeline.baselines.on_the_fly_record import OnTheFly, recorded
from pipeline.baselines.pixel_batches import PixelBatches
from pipeline.baselines.pixels import VIEWS, PixelData
from pipeline.encode.codec import ENCODER, load_analysis
from pipeline.encode.encoder import Encoder, Precision, frozen_encoder
from pipeline.encode.stored_batch import whole_steps
from pipeline.train.data import Batch, Share

_SHARD_SIZE = 512  # of the cache that there is not
_ENCODED_AT_ONCE = 64  # pictures, as many as `ci2p encode` gives the encoder: 32 with their mirror images


@dataclass(frozen=True)
class OnTheFlyData:
    """Images of which stage two is given the latents, as `pipeline.train.data.TrainingData` wants them."""

    pixels: PixelData
    transform: nn.Module
    weights: str
    precision: Precision
    latent_spec: CacheSpec
    """Of the cache that would hold the same latents, but for crops, which a cache has a few of and this all."""

    @property
    def path(self) -> str:
        return self.pixels.path

    @property
    def fingerprint(self) -> str:
        parts = [self.pixels.fingerprint, self.latent_spec.weights_sha256, str(self.latent_spec.step), self.precision]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    @property
    def window_shards(self) -> int:
        return 0

    @property
    def spec(self) -> dict[str, Any]:
        how = OnTheFly(images=self.pixels.pixel_spec, weights=Path(self.weights).name, precision=self.precision)
        return recorded(self.latent_spec, how)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.pixels.classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.latent_spec.latent_shape

    @property
    def num_train(self) -> int:
        return self.pixels.num_train

    def known_images(self) -> KnownImages:
        return self.pixels.known_images()

    def train_batches(self, share: Share, *, batch_size: int, seed: int, flip: bool) -> "LatentBatches":
        return self._encoded(self.pixels.train_batches(share, batch_size=batch_size, seed=seed, flip=flip), share)

    def val_batches(self, share: Share, *, batch_size: int) -> "LatentBatches":
        return self._encoded(self.pixels.val_batches(share, batch_size=batch_size), share)

    def _encoded(self, batches: PixelBatches, share: Share) -> "LatentBatches":
        encoder = frozen_encoder(self.transform, self.latent_spec.weights_sha256, share.device, self.precision)
        assert self.latent_spec.step is not None
        return LatentBatches(batches, encoder, self.latent_spec.step)


@dataclass(frozen=True)
class LatentBatches:
    """A split in batches of latents, encoded when they are asked for."""

    pixels: PixelBatches
    encoder: Encoder
    step: float

    @property
    def steps_per_epoch(self) -> int:
        return self.pixels.steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Raises WorkError as `PixelBatches.pixels` does."""
        for pixels_B3SS, labels in self.pixels.pixels(epoch, first_step):
            latents_BCHW = torch.cat([self.encoder(part) for part in torch.split(pixels_B3SS, _ENCODED_AT_ONCE)])
            # No more of inference mode, whose tensors no gradient can be taken through. Adding 0 makes 0 of -0.
            yield _Latents(whole_steps(latents_BCHW, self.step).add_(0.0).mul_(self.step), labels)


@dataclass(frozen=True)
class _Latents:
    """A batch."""

    latents: Tensor  # float32 [B, C, H, W]
    labels: Tensor


def encode_on_the_fly(
    pixels: PixelData, *, weights: str = "bundled", step: float = 1.0, precision: Precision = "float32"
) -> OnTheFlyData:
    """Training data of images, which the encoder of `--weights` reads in every step; rounded to multiples of `step`.

    Raises InputError as `load_analysis` does, and for a step that is no positive number.
    """
    codecs.check_step("int", step)
    transform, weights_sha256 = load_analysis(weights)
    images = pixels.pixel_spec
    spec = spec_of_settings(
        dataset=images.dataset,
        split="train",
        columns=images.columns,
        val_fraction=images.val_fraction,
        items_sha256=hash_items(pixels.train.keys, pixels.train.labels, pixels.train.classes),
        image_size=images.image_size,
        short_edge=images.short_edge,
        resize_mode=images.resize_mode,
        encoder=ENCODER,
        weights_sha256=weights_sha256,
        views=VIEWS,
        format="zarr",
        store="int",
        step=step,
        shard_size=_SHARD_SIZE,
        seed=images.data_seed,
    )
    return OnTheFlyData(pixels, transform, weights, precision, spec)
