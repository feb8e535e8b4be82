"""What is in a run folder, for people and programs: `ci2p inspect RUN`."""

from pathlib import Path
from typing import Any

from ci2p_cache.printable import counted
from ci2p_cache.spec import ON_THE_FLY
from pipeline.train.checkpoint import newest_checkpoint
from pipeline.train.metrics_log import read_metrics
from pipeline.train.recipe import Recipe
from pipeline.train.run_folder import read_config
from pipeline.train.weights_file import read_weights

_MOST_CLASSES = 12


def summarise_run(run: Path) -> dict[str, Any]:
    """What the run is, how far it came, and whether its files are whole.

    Raises InputError for what is no run, WorkError for checkpoints or weights that are damaged.
    """
    config = read_config(run)
    usual = dict(Recipe.model_validate(config.recipe.model_dump(include={"epochs", "schedule"})))
    usual["schedule"] = "cosine"  # its warm-up depends on it, and is no change where that is the usual one
    changed = {name: value for name, value in config.recipe.model_dump().items() if value != usual[name]}
    newest = newest_checkpoint(run)
    progress = None if newest is None else newest[0].progress
    best = run / "best.safetensors"
    if best.exists():
        read_weights(best)
    metrics = read_metrics(run)
    return {
        "run": str(run),
        "model": config.recipe.model,
        "cache": config.data.path,
        "reads_images": "kind" in config.data.spec or ON_THE_FLY in config.data.spec,
        "classes": list(config.data.classes),
        "input_shape": list(config.data.input_shape),
        "recipe": changed | {"epochs": config.recipe.epochs},
        "epochs_done": 0 if progress is None else progress.epoch,
        "steps_into_the_next": 0 if progress is None else progress.step,
        "finished": progress is not None and progress.epoch >= config.recipe.epochs,
        "best_top1": progress.best_top1 if progress is not None and progress.best_epoch else None,
        "best_epoch": progress.best_epoch if progress is not None and progress.best_epoch else None,
        "last_line": metrics[-1] if metrics else None,
        "seconds": 0.0 if progress is None else progress.total_seconds,
        "versions": config.versions,
        "bytes": {path.name: path.stat().st_size for path in sorted(run.iterdir()) if path.is_file()},
    }


def describe_run(summary: dict[str, Any]) -> list[str]:
    """Lines for people."""
    classes = summary["classes"]
    names = ", ".join(classes[:_MOST_CLASSES]) + (", ..." if len(classes) > _MOST_CLASSES else "")
    recipe = ", ".join(f"{name} {value}" for name, value in summary["recipe"].items() if name != "model")
    if summary["finished"]:
        state = "finished"
    elif summary["steps_into_the_next"]:
        state = f"stopped {counted(summary['steps_into_the_next'], 'step')} into epoch {summary['epochs_done'] + 1}"
    else:
        state = "not finished"
    top1 = summary["best_top1"]
    best = "not evaluated yet" if top1 is None else f"best top-1 {100 * top1:.2f} % in epoch {summary['best_epoch']}"
    sizes = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in summary["bytes"].items())
    return [
        f"model    {summary['model']}, input {summary['input_shape']}, {counted(len(classes), 'class')}: {names}",
        f"{'images' if summary['reads_images'] else 'cache'}".ljust(9) + str(summary["cache"]),
        f"recipe   {recipe}",
        f"state    {summary['epochs_done']} of {counted(summary['recipe']['epochs'], 'epoch')}, {state}; {best}; "
        f"{summary['seconds']:.0f} s",
        f"made by  {', '.join(f'{name} {version}' for name, version in summary['versions'].items())}",
        f"files    {sizes}; checkpoints and weights are whole",
    ]
