"""`ci2p train`, and `ci2p baseline`, which differs in its data alone."""

from pathlib import Path
from typing import Any

import click

from ci2p_cache.errors import InputError
from ci2p_cache.printable import counted
from pipeline.commands import completion
from pipeline.commands.command import Command
from pipeline.commands.gpus import is_first, runs_elsewhere
from pipeline.commands.options import (
    cache_dir_option,
    cache_gb_option,
    column_options,
    data_dir_option,
    dataset_option,
    fresh_crop_options,
    given_once,
    gpus_option,
    image_size_option,
    max_pixels_option,
    on_error_option,
    resize_mode_option,
    short_edge_option,
    val_fraction_option,
)
from pipeline.commands.output import print_line, report
from pipeline.commands.recipe_options import recipe_options, resolve_recipe

_RECIPE = "recipe epochs batch-size lr seed set"
_MACHINE = "device gpus precision compile workers resident max-minutes logger pictures json"
_TRAIN_GROUPS = {
    "What": "shards model tokens out init-from pretrained",
    "Recipe": _RECIPE,
    "Machine": f"{_MACHINE} cache-dir cache-gb",
}
_BASELINE_GROUPS = {
    "What": "data-dir dataset model out val-fraction data-seed on-error max-pixels",
    "Table": "image-column label-column key-column class-names",
    "Images": "image-size crops crop-scale augment short-edge resize-mode",
    "Recipe": _RECIPE,
    "Machine": _MACHINE,
}


def _train(
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

            drawn = leave_pictures(result.run, data, read_config(result.run).device, finished=result.finished)
            if drawn:
                print_line(json_file, f"pictures: {', '.join(path.name for path in drawn)}")


@click.command(cls=Command, groups=_TRAIN_GROUPS, short_help="Stage two: a cache -> a model.")
@click.argument("cache", required=False, shell_complete=completion.caches)
@click.option(
    "--shards",
    metavar="CACHE",
    shell_complete=completion.caches,
    help="A finished cache: a folder, or an fsspec URL; or give it plainly.",
)
@click.option(
    "--model",
    metavar="NAME",
    shell_complete=completion.models,
    help="ci2p_vit_base, _ds, _large, _small, _tiny, or a ViT of timm's. Default: the recipe's.",
)
@click.option(
    "--tokens",
    type=click.Choice(["64", "256"]),
    callback=lambda _context, _option, value: value and int(value),
    help="Of a 256 px image; 256 cost about four times as much. Default: the recipe's.",
)
@click.option(
    "--init-from",
    metavar="RUN|FILE",
    shell_complete=completion.runs,
    help="Start from a run of your own, under a new head for other classes.",
)
@click.option("--pretrained/--no-pretrained", default=None, help="Start a ViT of timm's from its published weights.")
@recipe_options
@gpus_option
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Decoding threads.")
@click.option(
    "--resident",
    type=click.Choice(["auto", "cpu", "cuda", "off"]),
    default="auto",
    show_default=True,
    help="Where the whole cache is held; auto: in memory if it fits.",
)
@cache_dir_option
@cache_gb_option
def train(
    cache: str | None,
    shards: str | None,
    recipe: str,
    out: Path | None,
    settings: tuple[str, ...],
    device: str,
    gpus: str | None,
    workers: int,
    resident: Any,
    cache_dir: str | None,
    cache_gb: float | None,
    max_minutes: float | None,
    pictures: bool,
    json_file: str | None,
    logger: tuple[str, ...],
    **overrides: Any,
) -> None:
    """Stage two: train a model from a cache of latents.

    Run the same command again to resume; one with more --epochs to extend a run of --set schedule=constant. Several
    machines: torchrun --no-python ci2p train ...
    """
    path = given_once(cache, shards, "--shards")
    if path is None:
        raise InputError("train from what? give a cache: ci2p train caches/NAME, or --shards")
    from ci2p_cache.disk_cache import local_disk

    disk = local_disk(cache_dir, cache_gb)
    if runs_elsewhere(gpus, device):
        return
    from pipeline.train.data import open_training_data

    resolved = resolve_recipe(recipe, settings, overrides)
    data = open_training_data(path, workers=workers, resident=resident, disk=disk)
    _train(resolved, data, path, out, device, max_minutes, pictures, json_file, logger)


@click.command(cls=Command, groups=_BASELINE_GROUPS, short_help="Train a model that reads pixels, to compare.")
@click.option(
    "--model",
    metavar="NAME",
    default="vit_base",
    show_default=True,
    shell_complete=completion.baselines,
    help="vit_base, _small, _tiny, _base_p32, cnn_vit, resnet18, resnet50d ...",
)
@dataset_option(default="folder", show_default=True)
@data_dir_option
@val_fraction_option
@column_options
@image_size_option
@short_edge_option
@resize_mode_option
@fresh_crop_options
@click.option("--data-seed", type=int, default=0, show_default=True, help="What --seed is to `encode`.")
@recipe_options
@click.option("--workers", type=click.IntRange(0), help="Decoding processes. Default: one a core, 16 at most.")
@click.option(
    "--resident",
    type=click.Choice(["auto", "cpu", "off"]),
    default="auto",
    show_default=True,
    help="Where all pixels are held; auto: in memory if they fit.",
)
@on_error_option
@max_pixels_option
def baseline(
    dataset: str,
    data_dir: str | None,
    val_fraction: float | None,
    image_column: str | None,
    label_column: str | None,
    key_column: str | None,
    class_names: str | None,
    image_size: int,
    short_edge: int | None,
    resize_mode: Any,
    crops: Any,
    crop_scale: tuple[float, float] | None,
    augment: Any,
    data_seed: int,
    recipe: str,
    out: Path | None,
    settings: tuple[str, ...],
    device: str,
    workers: int | None,
    resident: Any,
    on_error: Any,
    max_pixels: int,
    max_minutes: float | None,
    pictures: bool,
    json_file: str | None,
    logger: tuple[str, ...],
    **overrides: Any,
) -> None:
    """For comparison only: train a model that reads pixels, with the same loop, recipe, images and order.

    Run the same command again to resume.
    """
    from pipeline.baselines.pixels import open_pixel_data
    from pipeline.encode.datasets.table_columns import TableColumns
    from pipeline.encode.decoding import default_workers
    from pipeline.running.launched import launched_as

    launched_as()  # what it refuses is refused before an image is decoded
    resolved = resolve_recipe(recipe, settings, overrides)
    data = open_pixel_data(
        dataset,
        data_dir,
        workers=default_workers() if workers is None else workers,
        val_fraction=val_fraction,
        columns=TableColumns(image_column, label_column, key_column, class_names),
        image_size=image_size,
        short_edge=short_edge,
        resize_mode=resize_mode,
        crops=crops,
        crop_scale=crop_scale,
        augment=augment,
        data_seed=data_seed,
        resident=resident,
        on_error=on_error,
        max_pixels=max_pixels,
    )
    _train(
        resolved, data, data.path, out, device, max_minutes, pictures, json_file, logger, num_failed=len(data.failures)
    )
