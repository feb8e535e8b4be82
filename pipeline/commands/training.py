"""What `ci2p train` and `ci2p baseline` share: a recipe and data in, a run and what is said of it out."""

from pathlib import Path
from typing import Any

from ci2p_cache.printable import counted
from pipeline.commands.gpus import is_first
from pipeline.commands.output import print_line, report

# Options of both, as the help groups them.
RECIPE = "recipe epochs batch-size lr seed set"
MACHINE = "device gpus precision compile workers resident max-minutes logger pictures json"
LISTED = "val-fraction data-seed on-error max-pixels"
IMAGES = "image-size crops crop-scale augment short-edge resize-mode"
TABLE = "image-column label-column key-column class-names"


def train_on(
    recipe: Any,
    data: Any,
    name: str,
    out: Path | None,
    device: str,
    max_minutes: float | None,
    pictures: bool,
    json_file: str | None,
    logger: tuple[str, ...],
    **figures: Any,
) -> None:
    """Trains on data that go by `name`, and prints what came of it, with further `figures` in the JSON."""
    from pipeline.train.loop import train as train_model
    from pipeline.train.run_folder import default_run

    run = out or default_run(recipe.model, name, recipe.seed)
    result = train_model(recipe, data, run, device=device, max_minutes=max_minutes, loggers=logger)
    if is_first():
        best = "not evaluated yet" if result.best_top1 is None else f"best top-1 {100 * result.best_top1:.2f} %"
        state = "finished" if result.finished else "not finished; run the same command to go on"
        lines = [
            f"{best}, {counted(result.epochs, 'epoch')} in {result.seconds:.0f} s ({state})",
            f"run: {result.run}",
        ]
        measured = {
            "best_top1": result.best_top1,
            "final_top1": result.final_top1,
            "epochs": result.epochs,
            "images_per_s": result.images_per_s,
            "seconds": result.seconds,
            "params": result.params,
            "run": str(result.run),
        } | figures
        report(json_file, lines, measured)
        if pictures:
            from pipeline.report.training_pictures import leave_pictures
            from pipeline.train.run_folder import read_config

            where = read_config(result.run).device
            confusion = result.best_confusion
            drawn = leave_pictures(result.run, data, where, finished=result.finished, confusion=confusion)
            if drawn:
                print_line(json_file, f"pictures: {', '.join(path.name for path in drawn)}")
