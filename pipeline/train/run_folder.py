"""Run folder: where a training run leaves everything, and where it is found again.

RUN/config.json        everything that was resolved: recipe, model, data, versions, device
    images.npz         which images it was trained on and which were held out: see `ci2p_cache.known_images`
    metrics.jsonl      a line per epoch
    train.lock         whose it is, while it is trained
    last.ckpt          what a resume needs
    previous.ckpt      the one before it, for when that is damaged
    best.safetensors   the weights with the best validation top-1: averaged ones where the recipe has ema_decay
    events.*           TensorBoard's, where it is installed
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.known_images import KnownImages, dump_known_images, parse_known_images
from ci2p_cache.publish import publish
from pipeline.models import create_model
from pipeline.train.checkpoint import NEWEST, load_checkpoint, newest_checkpoint
from pipeline.train.data import TrainingData
from pipeline.train.recipe import Recipe
from pipeline.train.window import ThroughWindow

logger = logging.getLogger("ci2p")

METRICS = "metrics.jsonl"
CONFIG, IMAGES, BEST = "config.json", "images.npz", "best.safetensors"
_RECORDED_PACKAGES = ("ci2p", "torch", "timm", "lightning-fabric")


class ModelBuilder(Protocol):
    """Builds a model from what a run folder knows of it; `pipeline.models.create_model` is one."""

    def __call__(
        self,
        name: str,
        *,
        num_classes: int,
        input_shape: tuple[int, int, int],
        drop_path: float,
        pretrained: bool | str,
    ) -> nn.Module: ...


class DataRecord(BaseModel):
    """What a run was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    fingerprint: str
    spec: dict[str, Any]
    """The cache's own, whole: how to turn an image into what the model reads."""
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    """[C,H,W] of what the model reads: the window's, where the recipe has one."""


class RunConfig(BaseModel):
    """config.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = 1
    recipe: Recipe
    data: DataRecord
    device: str
    world_size: int
    versions: dict[str, str]


def default_run(model: str, cache: str | Path, seed: int, root: Path = Path("runs")) -> Path:
    """`runs/<model>-<cache>-<seed>`."""
    return root / f"{model}-{Path(str(cache).rstrip('/')).name}-{seed}"


def newest_run(root: Path = Path("runs")) -> Path:
    """The run under `root` that was written to last. Raises InputError when there is none."""
    runs = [config.parent for config in root.glob(f"*/{CONFIG}")]
    if not runs:
        raise InputError(f"there is no run under {root}/; train one with `ci2p train`, or name one with --checkpoint")
    return max(runs, key=_last_written)


def _last_written(run: Path) -> float:
    """When, in s since 1970."""
    times = [0.0]
    for file in run.iterdir():
        with suppress(FileNotFoundError):  # a training renames and removes files meanwhile
            times.append(file.stat().st_mtime)
    return max(times)


def read_config(run: Path) -> RunConfig:
    """Raises InputError when the folder is no run, or one of another version."""
    path = run / CONFIG
    try:
        return RunConfig.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{run} is no run of `ci2p train`: it has no {CONFIG}") from None
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the file"
        raise InputError(f"{path} is not of this version of ci2p ({field}); give another --out") from None


def resolve_config(recipe: Recipe, data: TrainingData, *, device: str, world_size: int) -> RunConfig:
    """Everything that config.json says of a run that is about to begin."""
    return RunConfig(
        recipe=recipe,
        data=DataRecord(
            path=data.path,
            fingerprint=data.fingerprint,
            spec=data.spec,
            classes=data.classes,
            input_shape=data.input_shape,
        ),
        device=device,
        world_size=world_size,
        versions={package: metadata.version(package) for package in _RECORDED_PACKAGES},
    )


def build_model(config: RunConfig, build: ModelBuilder = create_model, *, pretrained: bool | str = False) -> nn.Module:
    """The model of a run with fresh weights, or with `pretrained` ones.

    The recipe's own `pretrained` is for a run's very beginning: one that has weights of its own asks for no others.
    """
    return build(
        config.recipe.model,
        num_classes=len(config.data.classes),
        input_shape=config.data.input_shape,
        drop_path=config.recipe.drop_path,
        pretrained=pretrained,
    )


def write_config(run: Path, config: RunConfig, data: TrainingData) -> None:
    """Publishes config.json, and images.npz before it."""
    with writing_to(run):
        publish(run / IMAGES, dump_known_images(data.known_images()))
        publish(run / CONFIG, (config.model_dump_json(indent=2) + "\n").encode())


def read_known_images(run_or_file: str | Path) -> KnownImages | None:
    """What a run knows of its images; None where an older ci2p made it. Raises WorkError when that is damaged."""
    path = Path(run_or_file)
    file = (path if path.is_dir() else path.parent) / IMAGES
    try:
        return parse_known_images(file.read_bytes(), str(file))
    except FileNotFoundError:
        return None


@contextmanager
def writing_to(run: Path) -> Iterator[None]:
    """Turns what a disk says no with (full, read-only) into a WorkError that names the run."""
    try:
        yield
    except OSError as error:
        raise WorkError(
            f"{run} cannot be written to ({error.strerror or error}); mend that and run the same command again"
        ) from error


def save_best(run: Path, model: nn.Module) -> None:
    """Publishes the weights as best.safetensors."""
    # safetensors writes plain row-major tensors; the convolutions' weights lie channels-last.
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    publish(run / BEST, safetensors.torch.save(weights))


def load_model(run_or_file: str | Path, build: ModelBuilder = create_model) -> tuple[nn.Module, RunConfig]:
    """The trained model of a run, on the CPU, in evaluation mode, and the run's config.

    A folder gives its best weights; a run that was stopped before its first evaluation has none yet, and gives its
    last ones, saying so. A file is `best.safetensors` or `last.ckpt` with its `config.json` beside it. Of a run with
    averaged weights it is always these, and of one with a window the model takes the centre of what it is given.
    Raises InputError when there is no such run or file, WorkError when the weights are damaged or do not fit.
    """
    path = Path(run_or_file)
    if not path.exists():
        raise InputError(f"{path} does not exist; train it with `ci2p train`")
    run, weights_path = (path, path / BEST) if path.is_dir() else (path.parent, path)
    config = read_config(run)
    if path.is_dir() and not weights_path.exists():
        logger.info("%s has not been evaluated yet; taking its last weights", run)
        weights_path = run / NEWEST
        weights = _last_weights(run)
    else:
        weights = _read_weights(weights_path)
    model = build_model(config, build)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise WorkError(
            f"{weights_path} does not fit {config.recipe.model}: {str(error).splitlines()[-1].strip()}"
        ) from error
    if config.recipe.window:
        model = ThroughWindow(model, config.recipe.window)
    return model.eval(), config


def _last_weights(run: Path) -> dict[str, Tensor]:
    newest = newest_checkpoint(run)
    if newest is None:
        raise InputError(f"{run} has no weights yet: it was stopped before its first checkpoint")
    return newest[0].ema or newest[0].model


def _read_weights(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except SafetensorError as error:
            raise WorkError(f"{path} is damaged ({error})") from error
        except OSError as error:
            raise WorkError(f"{path} cannot be read ({error.strerror or error}); mend that and try again") from error
    checkpoint = load_checkpoint(path)
    if checkpoint is None:
        raise InputError(f"{path} does not exist; train it with `ci2p train`")
    return checkpoint.ema or checkpoint.model
