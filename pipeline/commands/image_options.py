"""The options of training on images themselves, and the training data that they name."""

from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from ci2p_cache.errors import InputError
from pipeline.commands.options import (
    augment_option,
    column_options,
    crop_scale_option,
    data_dir_option,
    dataset_option,
    image_size_option,
    max_pixels_option,
    on_error_option,
    resize_mode_option,
    short_edge_option,
    val_fraction_option,
)

_COLUMNS = ("image_column", "label_column", "key_column", "class_names")
_OTHERS = (
    "dataset", "data_dir", "val_fraction", "image_size", "short_edge", "resize_mode", "crops", "crop_scale", "augment",
    "data_seed", "on_error", "max_pixels",
)  # fmt: skip


def image_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which images, and how they are shown; `open_images` takes their values."""
    for option in (
        max_pixels_option,
        on_error_option,
        click.option("--data-seed", type=int, default=0, show_default=True, help="What --seed is to `encode`."),
        augment_option("What the crops go through besides, as in `ci2p encode`."),
        crop_scale_option,
        click.option(
            "--crops",
            type=click.Choice(["none", "fresh"]),
            default="none",
            show_default=True,
            help="fresh: a random-resized crop of each image, another every epoch.",
        ),
        resize_mode_option,
        short_edge_option,
        image_size_option,
        column_options,
        val_fraction_option,
        data_dir_option,
        dataset_option(default="folder", show_default=True),
    ):
        command = option(command)
    return command


def take_images(options: dict[str, Any]) -> dict[str, Any]:
    """The values of `image_options`, out of those of a command."""
    return {name: options.pop(name) for name in (*_COLUMNS, *_OTHERS)}


def refuse_given(*names: str, why: str) -> None:
    """Raises InputError for the first of the command's options of these names that was given, here or in the
    environment."""
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
            raise InputError(f"{parameter.opts[0]}: {why}")


def refuse_images(*more: str, why: str) -> None:
    """The same for all of `image_options`, and `more`."""
    refuse_given(*_COLUMNS, *_OTHERS, *more, why=why)


def open_images(images: dict[str, Any], workers: int | None, resident: Any) -> Any:
    """The `PixelData` that the values of `image_options` name; `workers` are processes, by default one a core."""
    from pipeline.baselines.pixels import open_pixel_data
    from pipeline.encode.datasets.table_columns import TableColumns
    from pipeline.encode.decoding import default_workers

    return open_pixel_data(
        workers=default_workers() if workers is None else workers,
        resident=resident,
        columns=TableColumns(*(images[name] for name in _COLUMNS)),
        **{name: images[name] for name in _OTHERS},
    )
