"""Options that several commands share."""

import math
from collections.abc import Callable
from typing import Any

import click

from ci2p_cache.errors import InputError
from pipeline.commands import completion
from pipeline.running.pixel_limit import MAX_PIXELS


class FloatRange(click.FloatRange):
    """click's, which takes nan for a number of any range, and this one does not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is no number", param, ctx)
        return number


json_option = click.option("--json", "json_file", metavar="FILE", help="Write what was measured as JSON ('-': stdout).")


device_option = click.option(
    "--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda, cuda:N or mps."
)
gpus_option = click.option("--gpus", metavar="N|all", help="A process for each of so many GPUs of this machine.")
max_minutes_option = click.option(
    "--max-minutes", type=FloatRange(min=0, min_open=True), help="End after so long, resumably."
)
checkpoint_option = click.option(
    "--checkpoint", metavar="RUN|FILE", shell_complete=completion.runs, help="Default: the newest run under runs/."
)
weights_option = click.option(
    "--weights", default="bundled", show_default=True, metavar="bundled|zoo|FILE", help="Of the encoder."
)

on_error_option = click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="skip: leave out images that cannot be used, and list them.",
)

max_pixels_option = click.option(
    "--max-pixels",
    type=click.IntRange(1),
    default=MAX_PIXELS,
    show_default=True,
    help="Of an image; a larger one is not used.",
)

cache_dir_option = click.option(
    "--cache-dir", metavar="DIR", help="Keep fetched shards of a remote cache there, for all processes of a machine."
)
cache_gb_option = click.option(
    "--cache-gb", type=float, metavar="GB", help="At most so much in --cache-dir. Default: 50."
)

record_images_option = click.option(
    "--record-images",
    type=click.IntRange(1, 2**20),
    help="Images a record of a tar. Default: 64; 1: a sample an image, as others expect.",
)

_DATASETS = ("sample", "folder", "animals10", "imagenet", "webdataset", "huggingface", "parquet")
STORES = click.Choice(["int", "rans", "float16"])


def dataset_option(**settings: Any) -> Callable[[Any], Any]:
    """--dataset, with more of click's settings."""
    text = f"What --data-dir holds: {', '.join(_DATASETS[:-1])} or {_DATASETS[-1]}; sample needs none."
    return click.option("--dataset", type=click.Choice(_DATASETS), metavar="NAME", help=text, **settings)


data_dir_option = click.option("--data-dir", metavar="DIR", help="Where the images are.")


def column_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--image-column and those that go with it, of a table; `table_columns` takes their values."""
    for option in (
        click.option("--class-names", metavar="FILE", help="Of a table: name n in line n, from 0."),
        click.option("--key-column", metavar="NAME", help="Of a table: what names an image. Default: FILE/ROW."),
        click.option("--label-column", metavar="NAME", help="Of a table. Default: a ClassLabel, label, class ..."),
        click.option("--image-column", metavar="NAME", help="Of a table. Default: its column of bytes."),
    ):
        command = option(command)
    return command


val_fraction_option = click.option(
    "--val-fraction", type=float, help="Share of each class kept for validation where there is no val/."
)
image_size_option = click.option(
    "--image-size", type=int, default=256, show_default=True, help="Pixels; a multiple of 32."
)
short_edge_option = click.option(
    "--short-edge", type=int, help="Pixels before the centre crop. Default: 292/256 of --image-size."
)
resize_mode_option = click.option(
    "--resize-mode",
    type=click.Choice(["crop", "squash"]),
    default="crop",
    show_default=True,
    help="squash: the whole image, its shape not kept.",
)

crop_scale_option = click.option(
    "--crop-scale", type=float, nargs=2, metavar="LOW HIGH", help="Of the area. Default: 0.25 1.0."
)


def augment_option(help: str) -> Callable[..., Any]:
    """--augment, of crops."""
    choice = click.Choice(["none", "randaugment", "authors"])
    return click.option("--augment", type=choice, default="none", show_default=True, help=help)


def given_once(argument: str | None, option: str | None, name: str) -> str | None:
    """What was given as a plain argument or as the option of this name. Raises InputError where both were."""
    if argument is not None and option is not None:
        raise InputError(f"{argument} and {name} {option} say the same thing twice; give one of them")
    return option if argument is None else argument
