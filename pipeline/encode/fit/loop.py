"""The training of a codec, read top to bottom: crops -> latents + noise -> crops, for rate and distortion.

Legend: B images, S crop size, H = W = S / 16.
"""

import logging
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ci2p_cache.errors import WorkError
from pipeline.encode.fit.checkpoint import FitCheckpoint, save_checkpoint
from pipeline.encode.fit.crops import crop_batches
from pipeline.encode.fit.images import Images, OnError
from pipeline.encode.fit.optimizer import auxiliary_optimizer, rate_distortion_optimizer, set_lr
from pipeline.encode.fit.settings import FitSettings
from pipeline.encode.whole_codec import Codec, RateDistortionLoss
from pipeline.running import signals
from pipeline.running.compiling import compiler_errors
from pipeline.running.deadlines import Deadlines
from pipeline.running.finite import non_finite
from pipeline.running.progress import progress

logger = logging.getLogger("ci2p")

_CHECKPOINT_EVERY_MINUTES = 5.0
_FIGURES_EVERY = 20  # steps; reading a loss makes the host wait for the device


@dataclass(frozen=True)
class FitRun:
    """Where a training reads, computes and saves."""

    images: Images
    checkpoint: Path
    device: torch.device
    compile: bool
    workers: int
    max_minutes: float | None
    on_error: OnError


def train_codec(codec: Codec, state: FitCheckpoint, run: FitRun) -> FitCheckpoint:
    """Trains `codec` in place to the end, or for `max_minutes`, and returns the checkpoint that it leaves on disk.

    Goes on from `state`, whose step is 0 for a training that begins with the codec as it is. The images and the noise
    of a step depend on the seed and the step alone. Raises WorkError when the loss is no longer finite (the last
    checkpoint stays) or an image cannot be used.
    """
    settings = state.settings
    codec.train().to(run.device)
    optimizer, auxiliary = rate_distortion_optimizer(codec, settings.lr), auxiliary_optimizer(codec)
    if state.step:
        codec.load_state_dict(state.codec)
        optimizer.load_state_dict(state.optimizer)
        auxiliary.load_state_dict(state.auxiliary)
        if state.step < settings.steps:
            logger.info("resuming %s at step %d of %d", run.checkpoint, state.step, settings.steps)
    codec.to(memory_format=torch.channels_last)
    stepper = _Stepper(codec, settings, run, optimizer, auxiliary)
    begin = time.monotonic()
    deadlines = Deadlines(checkpoint_every_minutes=_CHECKPOINT_EVERY_MINUTES, max_minutes=run.max_minutes)
    done, figures, failures = state.step, _Figures(), dict(state.failures)

    def save() -> FitCheckpoint:
        figures.refuse_non_finite(done)
        bad = non_finite(codec.state_dict())
        if bad is not None:
            raise WorkError(f"{bad} is no longer finite after step {done}, which is in no checkpoint; lower --lr")
        seconds = state.seconds + time.monotonic() - begin
        reached = replace(
            state,
            failures=failures,
            step=done,
            seconds=seconds,
            codec=codec.state_dict(),
            optimizer=optimizer.state_dict(),
            auxiliary=auxiliary.state_dict(),
        )
        save_checkpoint(run.checkpoint, reached)
        return reached

    pin = run.device.type == "cuda"
    batches = crop_batches(run.images, settings, first_step=done, workers=run.workers, pin=pin, on_error=run.on_error)
    with (
        progress("fit-encoder", settings.steps, "steps", start=done) as advance,
        compiler_errors(),
        signals.finishing(),
    ):
        for pixels_B3SS, unusable in batches:
            failures |= {run.images.names[index]: reason for index, reason in unusable.items()}
            figures.add(*stepper.step(pixels_B3SS, done))
            done += 1
            advance(1, figures.note)
            if deadlines.time_is_up or signals.told() is not None:
                break
            if deadlines.checkpoint_is_due:
                save()
                deadlines.saved()
        reached = save() if done > state.step else state
        signals.end_if_told()
    return reached


class _Stepper:
    """One step of both optimisers."""

    def __init__(
        self,
        codec: Codec,
        settings: FitSettings,
        run: FitRun,
        optimizer: torch.optim.Optimizer,
        auxiliary: torch.optim.Optimizer,
    ):
        self._settings = settings
        self._device = run.device
        self._optimizer, self._auxiliary = optimizer, auxiliary
        self._analysis, self._synthesis = codec.g_a, codec.g_s
        if run.compile:
            self._analysis, self._synthesis = (torch.compile(part, dynamic=False) for part in (codec.g_a, codec.g_s))
        self._prior = codec.entropy_bottleneck
        self._weights = [weight for name, weight in codec.named_parameters() if not name.endswith(".quantiles")]
        self._loss = RateDistortionLoss(settings.lmbda)

    def step(self, pixels_B3SS: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Learns from uint8 crops [B, 3, S, S]; returns bits per pixel and the mean squared error on [0, 1]."""
        settings = self._settings
        torch.manual_seed(int(np.random.SeedSequence([settings.seed, step]).generate_state(1, np.uint64)[0]))
        set_lr(self._optimizer, settings.lr * settings.lr_factor(step))
        images = pixels_B3SS.to(self._device, non_blocking=True).float().div_(255)
        with self._autocast():
            latents_BCHW = self._analysis(images)
        noisy_BCHW, likelihoods = self._prior(latents_BCHW.float(), training=True)
        with self._autocast():
            decoded = self._synthesis(noisy_BCHW.contiguous(memory_format=torch.channels_last))
        losses = self._loss({"x_hat": decoded.float(), "likelihoods": {"y": likelihoods}}, images)
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self._weights, settings.grad_clip)
        self._optimizer.step()
        self._prior.loss().backward()
        self._auxiliary.step()
        self._optimizer.zero_grad()
        self._auxiliary.zero_grad()
        return losses["bpp_loss"].detach(), losses["mse_loss"].detach()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._settings.precision == "bfloat16")


class _Figures:
    """Rate and distortion of the latest steps, read from the device now and then."""

    def __init__(self) -> None:
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._finite = True
        self.note = ""

    def add(self, bpp: Tensor, mse: Tensor) -> None:
        self._pending.append((bpp, mse))
        if len(self._pending) == _FIGURES_EVERY:
            self._read()

    def refuse_non_finite(self, step: int) -> None:
        """Raises WorkError when a loss was infinite or no number: such weights must not replace a good checkpoint."""
        if self._pending:
            self._read()
        if not self._finite:
            raise WorkError(f"the loss is no longer finite at step {step}; lower --lr (it is in no checkpoint)")

    def _read(self) -> None:
        bpp, mse = torch.tensor(self._pending).mean(0).tolist()
        self._pending = []
        self._finite &= math.isfinite(bpp) and math.isfinite(mse)
        self.note = f"{bpp:.3f} bit/pixel, {-10 * math.log10(mse):.2f} dB" if self._finite and mse > 0 else "not finite"
