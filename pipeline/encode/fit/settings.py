"""Settings of a codec's training: everything that decides its weights, and the schedules as functions of the step."""

import math
from dataclasses import dataclass

from ci2p_cache.errors import InputError

QUALITY_5_LAMBDA = 0.025
"""CompressAI's published model of quality 5 was trained with it; 0.0067 is quality 3's and 0.093 quality 7's."""


@dataclass(frozen=True)
class FitSettings:
    """Defaults are what converged fastest in short trainings (docs/encoder.md)."""

    steps: int
    lmbda: float = QUALITY_5_LAMBDA  # weight of 255^2 times the mean squared error against bits per pixel
    batch_size: int = 16
    crop_size: int = 128  # pixels
    final_crop_size: int = 192  # pixels, while the learning rate falls
    scale: tuple[float, float] = (0.7, 1.4)  # range of the factor by which images are resized before the crop
    lr: float = 3e-4  # of the kernels by Muon, of all else by Adam
    warmup: float = 0.02  # share of the steps
    decay: float = 0.5  # share of the steps at the end in which the learning rate falls to zero
    grad_clip: float = 1.0  # largest gradient norm
    seed: int = 0
    precision: str = "bfloat16"  # of the transforms; the prior and the loss are float32

    def __post_init__(self) -> None:
        """Raises InputError for a value outside of its range."""
        for name in ("steps", "batch_size", "lmbda", "lr", "grad_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)} must be a number above 0")
        for name in ("crop_size", "final_crop_size"):
            if getattr(self, name) < 32 or getattr(self, name) % 16:
                raise InputError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: give a multiple of 16, 32 or more, such as 128"
                )
        low, high = self.scale
        if not 0 < low <= high < math.inf:
            raise InputError(f"--scale {low:g} {high:g}: give two positive factors, the smaller one first")

    @property
    def decay_begins(self) -> int:
        """The first step at which the learning rate falls."""
        return round(self.steps * (1 - self.decay))

    def lr_factor(self, step: int) -> float:
        """Share of the learning rate at a step: linear warm-up, constant, linear to zero."""
        rising = (step + 1) / max(1, round(self.warmup * self.steps))
        falling = (self.steps - step) / max(1, self.steps - self.decay_begins)
        return min(1.0, rising, falling)

    def crop_size_at(self, step: int) -> int:
        """Pixels a side: small crops while the network learns the most a second, larger ones at the end."""
        return self.crop_size if step < self.decay_begins else self.final_crop_size
