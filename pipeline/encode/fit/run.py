"""A codec trained on a folder of images: settings in; checkpoint, safetensors, model card and a report out."""

import copy
import io
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ci2p_cache.errors import InputError
from ci2p_cache.printable import counted, printable
from ci2p_cache.publish import publish, remove_leftovers
from pipeline.encode.codec import hash_weights
from pipeline.encode.fit.checkpoint import FitCheckpoint, load_checkpoint
from pipeline.encode.fit.images import (
    GONE,
    Images,
    OnError,
    as_begun,
    hash_names,
    hold_out,
    list_images,
    read_image,
    shown,
    unusable,
)
from pipeline.encode.fit.loop import FitRun, train_codec
from pipeline.encode.fit.model_card import model_card
from pipeline.encode.fit.quality import Quality, measure_quality
from pipeline.encode.fit.settings import FitSettings
from pipeline.encode.preprocess import BadImage
from pipeline.encode.whole_codec import Codec, load_codec, new_codec
from pipeline.running.bfloat16 import warn_of_slow_bfloat16
from pipeline.running.cores import num_cores
from pipeline.running.devices import resolve_device
from pipeline.running.lock import Lock
from pipeline.running.pixel_limit import MAX_PIXELS

_MENDED = ", mended since"
_SUFFIXES = (".pth.tar", ".safetensors")


@dataclass(frozen=True)
class FitReport:
    """What one call did."""

    files: tuple[Path, ...]  # empty when the training is not finished
    settings: FitSettings
    step: int
    seconds: float  # of the whole training
    quality: Quality
    weights_sha256: str
    failures: dict[str, str]  # images that were left out, and why, over the whole training

    @property
    def finished(self) -> bool:
        return self.step == self.settings.steps

    def lines(self) -> list[str]:
        """For people."""
        state = (
            ""
            if self.finished
            else f" ({self.step} of {counted(self.settings.steps, 'step')}; run the same command to go on)"
        )
        failed = shown([f"{key} ({reason})" for key, reason in self.failures.items()])
        return [
            f"{self.quality} on {counted(self.quality.num_images, 'image')}{state}",
            *(
                [f"left out, since they cannot be used: {counted(len(self.failures), 'image')}: {failed}"]
                if failed
                else []
            ),
            *(["wrote: " + ", ".join(map(str, self.files))] if self.files else []),
        ]

    def measured(self) -> dict[str, Any]:
        """For --json."""
        return {
            "bpp": self.quality.bpp,
            "psnr": self.quality.psnr,
            "num_images": self.quality.num_images,
            "num_failed": len(self.failures),
            "failures": [{"key": key, "reason": reason} for key, reason in self.failures.items()],
            "steps": self.step,
            "finished": self.finished,
            "seconds": self.seconds,
            "lmbda": self.settings.lmbda,
            "weights_sha256": self.weights_sha256,
            "files": [str(file) for file in self.files],
        }


def fit_encoder(
    data_dir: str,
    out: Path,
    settings: FitSettings,
    *,
    begin_from: str = "random",
    eval_dir: str | None = None,
    device: str = "auto",
    compile_transforms: bool = True,
    workers: int = 0,
    max_minutes: float | None = None,
    on_error: OnError = "stop",
    max_pixels: int = MAX_PIXELS,
) -> FitReport:
    """Trains a factorized-prior codec on the images below `data_dir`, or goes on where the same call stopped.

    Writes OUT.pth.tar (CompressAI's checkpoint format), OUT.safetensors (float16), OUT.md and, on the way, OUT.ckpt.
    Without `eval_dir` one image in a hundred, 64 at most, is held out and measured on. The images are those that the
    first call found: one that has gone since cannot be used, and new ones are refused. Raises InputError for wrong
    settings or files before anything is written, and while another process trains OUT; WorkError for a loss that
    explodes and, unless `on_error` is "skip", an image that cannot be used.
    """
    stem = _stem(out)
    target = resolve_device(device)
    warn_of_slow_bfloat16(target, settings.precision)
    checkpoint = stem.with_name(f"{stem.name}.ckpt")
    listed = list_images(data_dir, "--data-dir", on_error, max_pixels)
    eval_images = None if eval_dir is None else list_images(eval_dir, "--eval-dir", on_error, max_pixels)
    torch.manual_seed(settings.seed)
    codec = new_codec() if begin_from == "random" else load_codec(begin_from, option="--from")
    source = {
        "from": "random weights" if begin_from == "random" else hash_weights(codec.g_a.state_dict()),
        "evaluation": "on images held out of --data-dir" if eval_images is None else "on --eval-dir",
    }

    def hash_listed() -> str:
        return hash_names(_divided(listed, eval_images, settings.seed)[0].names)

    with _only_one(stem):
        state = load_checkpoint(checkpoint, settings, source, listed.names, hash_listed)
        if state is None:
            state = FitCheckpoint(settings, source, listed.names, {}, 0, 0.0, {}, {}, {})
        is_done = state.step == settings.steps  # its images are looked at no more
        images = as_begun(state.names, listed, checkpoint, "skip" if is_done else on_error)
        train_images, eval_images = _divided(images, eval_images, settings.seed)
        failures = state.failures if is_done else _failures(train_images, listed, state.failures, on_error)
        state = replace(state, settings=settings, failures=failures)
        run = FitRun(train_images, checkpoint, target, compile_transforms, workers, max_minutes, on_error)
        reached = train_codec(codec, state, run)
        final = _as_shipped(codec)
        quality = measure_quality(final.to(target), eval_images, target, on_error)
        final.cpu()
        weights_sha256 = hash_weights(final.g_a.state_dict())
        finished = reached.step == settings.steps
        without = f" ({len(reached.failures)} of which could not be used)" if reached.failures else ""
        card = model_card(
            stem.name,
            settings,
            begun_from=source["from"],
            images=f"{counted(len(train_images), 'image')} of `{printable(train_images.root.name)}`{without}",
            minutes=reached.seconds / 60,
            machine=_machine(target),
            quality=quality,
            evaluated_on=f"`{printable(eval_images.root.name)}`" if eval_dir else "`data-dir` that were held out",
            weights_sha256=weights_sha256,
        )
        files = _write(stem, final, card) if finished else ()
        left_out = {train_images.key_of(name): reason for name, reason in reached.failures.items()} | quality.failures
        return FitReport(files, settings, reached.step, reached.seconds, quality, weights_sha256, left_out)


@contextmanager
def _only_one(stem: Path) -> Iterator[None]:
    """Holds OUT.lock, and sweeps what killed processes left of the files to be written."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    name = stem.with_name(f"{stem.name}.lock")
    with Lock(name, work=f"{stem}: a training", way_out="wait for its end, or give another --out"):
        for suffix in (".ckpt", *_SUFFIXES, ".md"):
            remove_leftovers(stem.with_name(stem.name + suffix))
        yield


def _stem(out: Path) -> Path:
    for suffix in _SUFFIXES:
        if out.name.endswith(suffix) and out.name != suffix:
            return out.with_name(out.name.removesuffix(suffix))
    raise InputError(f"--out {out}: give a name that ends in {' or '.join(_SUFFIXES)}; both are written")


def _divided(images: Images, eval_images: Images | None, seed: int) -> tuple[Images, Images]:
    """(for training, for evaluation), the latter held out of the former where there is no folder for it."""
    return hold_out(images, seed) if eval_images is None else (images, eval_images)


def _failures(images: Images, listed: Images, before: dict[str, str], on_error: OnError) -> dict[str, str]:
    """By name: the images that earlier calls left out, and those that have gone.

    One that has been mended stays listed, for steps were made without it. Raises WorkError under "stop" for one that
    still cannot be used.
    """
    found = set(listed.names)
    failures = {name: GONE for name in images.names if name not in found}
    for name, reason in before.items():
        try:
            read_image(images.root / name, images.max_pixels)
            failures[name] = reason if reason.endswith(_MENDED) else reason + _MENDED
        except BadImage as error:
            if on_error == "stop":
                raise unusable(images.root / name, error.reason) from error
            failures[name] = error.reason
    return failures


def _as_shipped(codec: Codec) -> Codec:
    """A copy with every weight rounded to float16 and the tables of its entropy coder made from those."""
    final = copy.deepcopy(codec).cpu().eval()
    with torch.no_grad():
        final.update(force=True, update_quantiles=True)
        for parameter in final.parameters():
            parameter.copy_(parameter.half().float())
    final.update(force=True)
    return final


def _write(stem: Path, codec: Codec, card: str) -> tuple[Path, ...]:
    state: dict[str, Tensor] = codec.state_dict()
    checkpoint = io.BytesIO()
    torch.save({"state_dict": state}, checkpoint)
    weights = dict(codec.named_parameters())  # the buffers hold bounds that float16 cannot
    halves = {name: (tensor.half() if name in weights else tensor).contiguous() for name, tensor in state.items()}
    contents = {
        ".pth.tar": checkpoint.getvalue(),
        ".safetensors": safetensors.torch.save(halves),
        ".md": card.encode(),
    }
    for suffix, data in contents.items():
        publish(stem.with_name(stem.name + suffix), data)
    return tuple(stem.with_name(stem.name + suffix) for suffix in contents)


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{num_cores()} CPU cores ({platform.machine()})"
