"""A codec trained on a folder of images: settings in; checkpoint, safetensors, model card and a report out."""

import copy
import hashlib
import io
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ci2p_cache.errors import InputError
from ci2p_cache.publish import publish
from pipeline.bfloat16 import warn_of_slow_bfloat16
from pipeline.encode.codec import hash_weights
from pipeline.encode.encoder import resolve_device
from pipeline.encode.fit.crops import list_images
from pipeline.encode.fit.loop import FitRun, train_codec
from pipeline.encode.fit.model_card import model_card
from pipeline.encode.fit.quality import Quality, measure_quality
from pipeline.encode.fit.settings import FitSettings
from pipeline.encode.whole_codec import Codec, load_codec, new_codec

_HELD_OUT_SHARE = 100  # one image in so many is for evaluation when no folder is given for it
_MOST_HELD_OUT = 64
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

    @property
    def finished(self) -> bool:
        return self.step == self.settings.steps

    def lines(self) -> list[str]:
        """For people."""
        state = "" if self.finished else f" ({self.step} of {self.settings.steps} steps; run the same command to go on)"
        return [
            f"{self.quality} on {self.quality.num_images} images{state}",
            *(["wrote: " + ", ".join(map(str, self.files))] if self.files else []),
        ]

    def measured(self) -> dict[str, Any]:
        """For --json."""
        return {
            **asdict(self.quality),
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
) -> FitReport:
    """Trains a factorized-prior codec on the images below `data_dir`, or goes on where the same call stopped.

    Writes OUT.pth.tar (CompressAI's checkpoint format), OUT.safetensors (float16), OUT.md and, on the way, OUT.ckpt.
    Without `eval_dir` one image in a hundred, 64 at most, is held out and measured on. Raises InputError for wrong
    settings or files before anything is written, WorkError for an image that cannot be used and a loss that explodes.
    """
    stem = _stem(out)
    target = resolve_device(device)
    warn_of_slow_bfloat16(target, settings.precision)
    train_files, eval_files = _files(data_dir, eval_dir, settings.seed)
    torch.manual_seed(settings.seed)
    codec = new_codec() if begin_from == "random" else load_codec(begin_from, option="--from")
    source = {
        "data-dir images": _hash_names(train_files, Path(data_dir)),
        "from": "random weights" if begin_from == "random" else hash_weights(codec.g_a.state_dict()),
    }
    run = FitRun(
        train_files, source, stem.with_name(f"{stem.name}.ckpt"), target, compile_transforms, workers, max_minutes
    )
    reached = train_codec(codec, settings, run)
    final = _as_shipped(codec)
    quality = measure_quality(final.to(target), eval_files, target)
    final.cpu()
    weights_sha256 = hash_weights(final.g_a.state_dict())
    finished = reached.step == settings.steps
    card = model_card(
        stem.name,
        settings,
        begun_from=source["from"],
        images=f"{len(train_files)} images of `{Path(data_dir).name}`",
        minutes=reached.seconds / 60,
        machine=_machine(target),
        quality=quality,
        evaluated_on=f"`{Path(eval_dir).name}`" if eval_dir else "`data-dir` that were held out",
        weights_sha256=weights_sha256,
    )
    files = _write(stem, final, card) if finished else ()
    return FitReport(files, settings, reached.step, reached.seconds, quality, weights_sha256)


def _stem(out: Path) -> Path:
    for suffix in _SUFFIXES:
        if out.name.endswith(suffix) and out.name != suffix:
            return out.with_name(out.name.removesuffix(suffix))
    raise InputError(f"--out {out}: give a name that ends in {' or '.join(_SUFFIXES)}; both are written")


def _files(data_dir: str, eval_dir: str | None, seed: int) -> tuple[list[Path], list[Path]]:
    files = list_images(data_dir, "--data-dir")
    if eval_dir is not None:
        return files, list_images(eval_dir, "--eval-dir")
    num_held_out = min(_MOST_HELD_OUT, len(files) // _HELD_OUT_SHARE)
    if not num_held_out:
        raise InputError(
            f"--data-dir {data_dir} has {len(files)} images, too few to hold one in {_HELD_OUT_SHARE} out for "
            "evaluation; give --eval-dir"
        )
    held_out = set(np.random.default_rng(seed).choice(len(files), num_held_out, replace=False).tolist())
    return (
        [file for index, file in enumerate(files) if index not in held_out],
        [file for index, file in enumerate(files) if index in held_out],
    )


def _hash_names(files: list[Path], data_dir: Path) -> str:
    """The images' names below the folder, so that a folder may move between two calls."""
    root = data_dir.expanduser().resolve()
    names = "\n".join(file.relative_to(root).as_posix() for file in files)
    return hashlib.sha256(names.encode()).hexdigest()[:16]


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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} CPU cores ({platform.machine()})"
