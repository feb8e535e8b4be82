"""The trained model of a run: its best weights as they are kept, checked and loaded again."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor, nn

from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.publish import fsync_folder
from ci2p_cache.spec import values_of
from pipeline.models import create_model
from pipeline.running.finite import non_finite
from pipeline.train.checkpoint import NEWEST, Checkpoint, Progress, load_checkpoint, newest_checkpoint
from pipeline.train.run_folder import (
    BEST,
    CONFIG,
    NEXT_BEST,
    PUBLISHED,
    ModelBuilder,
    RunConfig,
    build_model,
    read_config,
)
from pipeline.train.weights_file import read_seal, read_weights, write_weights
from pipeline.train.window import ThroughWindow

logger = logging.getLogger("ci2p")


def save_next_best(run: Path, weights: Mapping[str, Tensor], config: RunConfig) -> str:
    """Publishes new best weights under the name that they have until a checkpoint bears their seal; returns that."""
    return write_weights(run / NEXT_BEST, weights, config.model_dump_json())


def take_next_best(run: Path) -> None:
    """Makes the new best weights the best."""
    (run / NEXT_BEST).replace(run / BEST)
    fsync_folder(run)


def best_weights(run: Path, checkpoint: Checkpoint | None) -> Path:
    """The file that holds a checkpoint's best weights, if one does.

    It is the new ones' where a kill came between that checkpoint and their name.
    """
    is_next = checkpoint is not None and checkpoint.best and checkpoint.best == read_seal(run / NEXT_BEST)
    return run / (NEXT_BEST if is_next else BEST)


def settle_best(run: Path, checkpoint: Checkpoint | None) -> None:
    """Gives a checkpoint's best weights their name, and removes new ones that no checkpoint knows of."""
    if best_weights(run, checkpoint).name == NEXT_BEST:
        take_next_best(run)
    (run / NEXT_BEST).unlink(missing_ok=True)


def check_best(run: Path, checkpoint: Checkpoint) -> Progress:
    """Sees to it that the best weights are there, whole and the checkpoint's, in a run that is about to go on.

    Where they are gone, or of a later epoch since the checkpoint is the previous one, the best of what follows is
    kept, which is said; where they are damaged, WorkError is raised.
    """
    progress = checkpoint.progress
    if not progress.best_epoch:
        return progress
    path = best_weights(run, checkpoint)
    trouble = "has lost its"
    if path.exists():
        try:
            read_weights(path)
        except WorkError as error:
            raise WorkError(f"{error}; delete it to go on without the best weights so far") from error
        if checkpoint.best is None or checkpoint.best == read_seal(path):
            return progress
        trouble = "goes on from a checkpoint that does not know its"
    logger.warning("%s %s %s: the best of what follows is kept", run, trouble, BEST)
    return replace(progress, best_epoch=0, best_top1=-1.0)


@dataclass(frozen=True)
class Stored:
    """Weights as they lie on the disk, and what they are of."""

    path: Path
    weights: dict[str, Tensor]
    config: RunConfig


def load_model(run_or_file: str | Path, build: ModelBuilder = create_model) -> tuple[nn.Module, RunConfig]:
    """The trained model of a run, on the CPU, in evaluation mode, and the run's config.

    Of a run with a window the model takes the centre of what it is given. Raises as `read_stored`, and WorkError for
    weights that do not fit.
    """
    stored = read_stored(run_or_file)
    model = build_model(stored.config, build)
    recipe = stored.config.recipe
    try:
        model.load_state_dict(stored.weights)
    except RuntimeError as error:
        raise WorkError(f"{stored.path} does not fit {recipe.model}: {str(error).splitlines()[-1].strip()}") from error
    if recipe.window:
        model = ThroughWindow(model, recipe.window)
    return model.eval(), stored.config


def read_stored(run_or_file: str | Path) -> Stored:
    """The weights of a run, and its config.

    A folder gives its best weights, or those that `export --to hub` put into it; a run that was stopped before its
    first evaluation has none yet, and gives its last ones, saying so. A file is `best.safetensors`, which needs nothing
    beside it, or `last.ckpt` with its `config.json`. Of a run with averaged weights it is always these.
    Raises InputError when there is no such run or file, WorkError when the weights are damaged or lost, or hold what is
    no number.
    """
    path = Path(run_or_file)
    if not path.exists():
        raise InputError(f"{path} does not exist; train it with `ci2p train`")
    run, weights_path = (path, _best_of(path)) if path.is_dir() else (path.parent, path)
    if path.is_dir() and not weights_path.exists() and (path / PUBLISHED).exists():
        weights_path = path / PUBLISHED
    if path.is_dir() and not weights_path.exists():
        config, weights_path, weights = read_config(run), run / NEWEST, _last_weights(run)
    elif weights_path.suffix == ".safetensors" or weights_path.name == NEXT_BEST:
        weights, told = read_weights(weights_path)
        config = _config_of(weights_path, told)
    else:
        config, weights = read_config(run), _read_checkpoint(weights_path)
    bad = non_finite(weights)
    if bad is not None:
        raise WorkError(f"{weights_path}: {bad} holds values that are infinite or no number; train it anew")
    return Stored(weights_path, weights, config)


def _best_of(run: Path) -> Path:
    if not (run / NEXT_BEST).exists():  # nothing of the kind is about, and no checkpoint need be read
        return run / BEST
    newest = newest_checkpoint(run)
    return best_weights(run, None if newest is None else newest[0])


def _config_of(weights: Path, told: str | None) -> RunConfig:
    """The config beside a weights file, or the one inside it. Raises WorkError where they are of different models."""
    if told is None:
        if weights.name == PUBLISHED:
            raise InputError(f"{weights} is not what `ci2p export` wrote; load it with ci2p.HubModel.from_pretrained")
        return read_config(weights.parent)
    try:
        inside = RunConfig.model_validate_json(told)
    except ValidationError as error:
        raise InputError(f"{weights} is not of this version of ci2p ({error.error_count()} fields)") from None
    if weights.name == PUBLISHED or not (weights.parent / CONFIG).exists():
        return inside
    beside = read_config(weights.parent)
    ours, theirs = (
        {"classes": data.classes, "input_shape": data.input_shape, "spec": values_of(data.spec)}
        for data in (inside.data, beside.data)
    )
    for field in ours:
        if ours[field] != theirs[field]:
            raise WorkError(f"{weights.parent / CONFIG} has another {field} than {weights.name}; one has been changed")
    for field in ("model", "window"):
        if getattr(beside.recipe, field) != getattr(inside.recipe, field):
            raise WorkError(f"{weights.parent / CONFIG} has another {field} than {weights.name}; one has been changed")
    return beside


def _last_weights(run: Path) -> dict[str, Tensor]:
    newest = newest_checkpoint(run)
    if newest is None:
        raise InputError(f"{run} has no weights yet: there is no checkpoint of it so far; run its command again")
    if newest[0].progress.best_epoch:
        raise WorkError(f"{run} has lost its {BEST}; name {run / NEWEST} to take the last weights")
    logger.info("%s has not been evaluated yet; taking its last weights", run)
    return newest[0].ema or newest[0].model


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    checkpoint = load_checkpoint(path)
    if checkpoint is None:
        raise InputError(f"{path} does not exist; train it with `ci2p train`")
    return checkpoint.ema or checkpoint.model
