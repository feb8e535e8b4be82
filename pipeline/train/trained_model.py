"""The trained model of a run: its best weights as they are kept, checked and loaded again."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor, nn

from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.spec import values_of
from pipeline.models import create_model
from pipeline.running.finite import non_finite
from pipeline.train.checkpoint import NEWEST, Progress, load_checkpoint, newest_checkpoint
from pipeline.train.run_folder import BEST, CONFIG, PUBLISHED, ModelBuilder, RunConfig, build_model, read_config
from pipeline.train.weights_file import read_weights, write_weights
from pipeline.train.window import ThroughWindow

logger = logging.getLogger("ci2p")


def save_best(run: Path, model: nn.Module, config: RunConfig) -> None:
    """Publishes the weights as best.safetensors."""
    write_weights(run / BEST, model.state_dict(), config.model_dump_json())


def check_best(run: Path, progress: Progress) -> Progress:
    """Sees to it that the best weights are still there and whole, in a run that is about to go on.

    Where they are gone, the best of what follows is kept, which is said; where they are damaged, WorkError is raised.
    """
    if not progress.best_epoch:
        return progress
    if (run / BEST).exists():
        try:
            read_weights(run / BEST)
        except WorkError as error:
            raise WorkError(f"{error}; delete it to go on without the best weights so far") from error
        return progress
    logger.warning("%s has lost its %s of epoch %d: the best of what follows is kept", run, BEST, progress.best_epoch)
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
    run, weights_path = (path, path / BEST) if path.is_dir() else (path.parent, path)
    if path.is_dir() and not weights_path.exists() and (path / PUBLISHED).exists():
        weights_path = path / PUBLISHED
    if path.is_dir() and not weights_path.exists():
        config, weights_path, weights = read_config(run), run / NEWEST, _last_weights(run)
    elif weights_path.suffix == ".safetensors":
        weights, told = read_weights(weights_path)
        config = _config_of(weights_path, told)
    else:
        config, weights = read_config(run), _read_checkpoint(weights_path)
    bad = non_finite(weights)
    if bad is not None:
        raise WorkError(f"{weights_path}: {bad} holds values that are infinite or no number; train it anew")
    return Stored(weights_path, weights, config)


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
        raise InputError(f"{run} has no weights yet: it was stopped before its first checkpoint")
    if newest[0].progress.best_epoch:
        raise WorkError(f"{run} has lost its {BEST}; name {run / NEWEST} to take the last weights")
    logger.info("%s has not been evaluated yet; taking its last weights", run)
    return newest[0].ema or newest[0].model


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    checkpoint = load_checkpoint(path)
    if checkpoint is None:
        raise InputError(f"{path} does not exist; train it with `ci2p train`")
    return checkpoint.ema or checkpoint.model
