"""Precision: what "auto" is on a device, decided once a run, and which device can do which."""

import logging
from pathlib import Path
from typing import Literal

import torch

from ci2p_cache.errors import InputError
from pipeline.running.launched import launched_as
from pipeline.train.checkpoint import NEWEST, PREVIOUS
from pipeline.train.recipe import Recipe
from pipeline.train.run_folder import read_config

logger = logging.getLogger("ci2p")

_Resolved = Literal["float32", "tf32", "bfloat16", "float16"]
_BFLOAT16_SINCE, _TENSOR_CORES_SINCE = (8, 0), (7, 0)  # compute capability: Ampere, which brought TF32 as well; Volta


def decided(recipe: Recipe, run: Path, device: str) -> Recipe:
    """The recipe with its precision: "auto" is what the run was begun with, wherever it goes on, or suits the device.

    `device` is cpu, mps, cuda or cuda:N. Raises InputError where the run goes on on a device that cannot do it.
    """
    if recipe.precision != "auto":
        return recipe
    begun_with = None
    if any((run / name).exists() for name in (NEWEST, PREVIOUS)):
        begun_with = read_config(run).recipe.precision
    suits = _suiting(device)
    precision = begun_with or suits
    why_not = unable(device, precision)
    if why_not is not None:
        raise InputError(
            f"{run} was begun with precision {precision}, and {why_not}; go on with it on the device that it was begun "
            "on, or give another --out"
        )
    if launched_as().rank == 0 and (precision != suits or device.startswith("cuda")):
        why = f"which {run} was begun with" if begun_with else f"chosen for {_name(device)}; --precision names another"
        logger.info("precision is %s, %s", precision, why)
    return recipe.model_copy(update={"precision": precision})


def refuse_unable(device: str, precision: str) -> None:
    """Raises InputError where a device cannot do a precision."""
    why_not = unable(device, precision)
    if why_not is not None:
        raise InputError(f"precision {precision}: {why_not}; use bfloat16 or float32")


def unable(device: str, precision: str) -> str | None:
    """Why a device cannot do a precision; None where it can."""
    if precision == "float16" and device == "cpu":
        return "it needs a GPU, and the device is the cpu"
    if precision == "tf32" and not device.startswith("cuda"):
        return f"it is what NVIDIA's GPUs do, and the device is the {device}"
    if precision == "tf32" and _capability(device) < _BFLOAT16_SINCE:
        return f"{_name(device)} has none (GPUs since Ampere do)"
    return None


def _suiting(device: str) -> _Resolved:
    """On a GPU the fastest that trains well; float32 elsewhere."""
    if not device.startswith("cuda"):
        return "float32"
    capability = _capability(device)
    if capability >= _BFLOAT16_SINCE:
        return "bfloat16"
    return "float16" if capability >= _TENSOR_CORES_SINCE else "float32"


def _capability(device: str) -> tuple[int, int]:
    return torch.cuda.get_device_capability(_index(device))


def _name(device: str) -> str:
    return torch.cuda.get_device_name(_index(device)) if device.startswith("cuda") else device


def _index(device: str) -> int:
    """Of this process's GPU."""
    number = device.partition(":")[2]
    return int(number) if number else launched_as().local_rank
