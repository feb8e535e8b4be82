"""Run folder: where a training run leaves everything, and where it is found again.

RUN/config.json        everything that was resolved: recipe, model, data, versions, device
    images.npz         which images it was trained on and which were held out: see `ci2p_cache.known_images`
    metrics.jsonl      a line per epoch
    train.lock         whose it is, while it is trained
    last.ckpt          what a resume needs
    previous.ckpt      the one before it, where there was one, for when that is damaged
    best.safetensors   the weights with the best validation top-1 up to last.ckpt: averaged ones where the recipe has
                       ema_decay; best.next while they are being written
    events.*           TensorBoard's, where it is installed
    loggers.json       what `--logger` has sent where
    curves.png         for people, where matplotlib is installed, and confusion.png at the end: nothing reads them
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.known_images import KnownImages, dump_known_images, parse_known_images
from ci2p_cache.order import ORDER_VERSION
from ci2p_cache.publish import publish
from pipeline.models import Variant, create_model
from pipeline.models.variant import VARIANT_FIELDS
from pipeline.running.machine import name_device
from pipeline.train.data import TrainingData
from pipeline.train.data_place import DataPlace, place_of
from pipeline.train.recipe import Recipe

logger = logging.getLogger("ci2p")

METRICS = "metrics.jsonl"
CONFIG, IMAGES, BEST = "config.json", "images.npz", "best.safetensors"
NEXT_BEST = "best.next"
"""The best weights of a checkpoint that is being written; see `pipeline.train.checkpoint_writer`."""
PUBLISHED = "model.safetensors"
"""The weights in a folder that `ci2p export --to hub` wrote: what they are of stands in them; its config.json is for
timm."""
# What two runs may differ in and still compute the same thing.
FREE_FIELDS = frozenset({"compile", "checkpoint_every_minutes", "checkpoint_every_steps"})
# The same while a constant schedule has not begun to fall.
LENGTH_FIELDS = frozenset({"epochs", "decay_epochs"})
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
        variant: Variant,
        pretrained: bool | str,
    ) -> nn.Module: ...


class DataRecord(DataPlace):
    """What a run was trained on, and where that lies."""

    fingerprint: str
    spec: dict[str, Any]
    """The cache's own, whole: how to turn an image into what the model reads."""
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    """[C,H,W] of what the model reads: the window's, where the recipe has one."""
    window_shards: int | None = None
    """Of its order: see `TrainingData.window_shards`. None where an older ci2p wrote this."""
    order_version: int = 1
    """Of its order: see `ci2p_cache.order`. 1 where an older ci2p wrote this."""


class RunConfig(BaseModel):
    """config.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = 1
    recipe: Recipe
    data: DataRecord
    device: str
    world_size: int
    versions: dict[str, str]
    machine: str = ""
    """For people: the processor or GPU that computed it last; empty where an older ci2p wrote this."""

    @property
    def variant(self) -> Variant:
        """Of the recipe's model."""
        return Variant(**{name: getattr(self.recipe, name) for name in VARIANT_FIELDS})

    @property
    def run_id(self) -> str:
        """Equal for commands that go on with each other's runs, but for contents that one of their caches lacks."""
        free = FREE_FIELDS | (LENGTH_FIELDS if self.recipe.schedule == "constant" else set())
        recipe = self.recipe.model_dump(mode="json", exclude={*free, "precision"}, exclude_defaults=True)
        if self.recipe.precision != "float32":  # the default of the first versions, whose runs keep their names
            recipe["precision"] = self.recipe.precision
        identity = [
            recipe,
            [self.data.classes, self.data.input_shape, self.data.fingerprint.split("-")[:2]],
        ]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def default_run(model: str, cache: str | Path, seed: int, root: Path = Path("runs")) -> Path:
    """`runs/<model>-<cache>-<seed>`."""
    return root / f"{model}-{Path(str(cache).rstrip('/')).name}-{seed}"


def newest_run(root: Path = Path("runs")) -> Path:
    """The run under `root` that was written to last. Raises InputError when there is none."""
    runs = [config.parent for config in root.glob(f"*/{CONFIG}") if not _is_published(config.parent)]
    if not runs:
        raise InputError(f"there is no run under {root}/; train one with `ci2p train`, or name one with --checkpoint")
    return max(runs, key=_last_written)


def _is_published(folder: Path) -> bool:
    return (folder / PUBLISHED).exists() and not (folder / METRICS).exists()


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
        raise InputError(f"{run} is no run of `ci2p train`: it has no {CONFIG}; name one, such as runs/NAME") from None
    except ValidationError as error:
        if (run / PUBLISHED).exists():
            raise InputError(f"{run} is what `ci2p export --to hub` wrote, and no run; name the run") from None
        field = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the file"
        raise InputError(f"{path} is not of this version of ci2p ({field}); give another --out") from None


def resolve_config(recipe: Recipe, data: TrainingData, *, run: Path, device: str, world_size: int) -> RunConfig:
    """Everything that config.json says of a run that is about to begin in the folder `run`."""
    return RunConfig(
        recipe=recipe,
        data=DataRecord(
            **place_of(data.path, run).model_dump(),
            fingerprint=data.fingerprint,
            spec=data.spec,
            classes=data.classes,
            input_shape=data.input_shape,
            window_shards=data.window_shards,
            order_version=ORDER_VERSION,
        ),
        device=device,
        world_size=world_size,
        versions={package: metadata.version(package) for package in _RECORDED_PACKAGES},
        machine=name_device(device),
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
        variant=config.variant,
        pretrained=pretrained,
    )


def write_config(run: Path, config: RunConfig, known: KnownImages) -> None:
    """Publishes config.json, and images.npz before it."""
    with writing_to(run):
        publish(run / IMAGES, dump_known_images(known))
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
