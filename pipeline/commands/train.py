"""`ci2p train`."""

from pathlib import Path
from typing import Any

import click

from ci2p_cache.errors import InputError
from pipeline.commands import completion
from pipeline.commands.command import Command
from pipeline.commands.gpus import runs_elsewhere
from pipeline.commands.image_options import image_options, open_images, refuse_given, refuse_images, take_images
from pipeline.commands.options import cache_dir_option, cache_gb_option, given_once, gpus_option, weights_option
from pipeline.commands.recipe_options import recipe_options, resolve_recipe
from pipeline.commands.training import IMAGES, LISTED, MACHINE, RECIPE, TABLE, train_on

_CACHE_WORKERS = 2
_GROUPS = {
    "What": "shards model tokens out init-from pretrained",
    "Recipe": RECIPE,
    "Machine": f"{MACHINE} cache-dir cache-gb",
    "Without a cache": f"encode data-dir dataset {IMAGES} weights step encoder-precision {LISTED}",
    "Table": TABLE,
}


@click.command(cls=Command, groups=_GROUPS, short_help="Stage two: a cache -> a model.")
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
@click.option(
    "--workers", type=click.IntRange(1), help="Decoding threads. Default: 2; without a cache processes, one a core."
)
@click.option(
    "--resident",
    type=click.Choice(["auto", "cpu", "cuda", "off"]),
    default="auto",
    show_default=True,
    help="Where the whole cache is held; auto: on the GPU or in memory if it fits.",
)
@cache_dir_option
@cache_gb_option
@click.option(
    "--encode",
    type=click.Choice(["on-the-fly"]),
    help="No cache: the frozen encoder reads images in every step. To compare; slower.",
)
@image_options
@weights_option
@click.option("--step", type=float, default=1.0, show_default=True, help="What latents are rounded to multiples of.")
@click.option(
    "--encoder-precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the encoder's products.",
)
def train(
    cache: str | None,
    shards: str | None,
    recipe: str,
    out: Path | None,
    settings: tuple[str, ...],
    device: str,
    gpus: str | None,
    workers: int | None,
    resident: Any,
    cache_dir: str | None,
    cache_gb: float | None,
    encode: str | None,
    weights: str,
    step: float,
    encoder_precision: Any,
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
    images = take_images(overrides)
    _refuse_mixture(path, encode, resident)
    from ci2p_cache.disk_cache import local_disk

    disk = local_disk(cache_dir, cache_gb)
    if runs_elsewhere(gpus, device):
        return
    resolved = resolve_recipe(recipe, settings, overrides)
    data: Any
    if path is None:
        from pipeline.baselines.on_the_fly import encode_on_the_fly

        pixels = open_images(images, workers, resident)
        data = encode_on_the_fly(pixels, weights=weights, step=step, precision=encoder_precision)
        name = f"{pixels.path.rstrip('/')}-{encode}"
        train_on(
            *(resolved, data, name, out, device, max_minutes, pictures, json_file, logger),
            num_failed=len(pixels.failures),
        )
        return
    from pipeline.train.data import open_training_data

    data = open_training_data(path, workers=workers or _CACHE_WORKERS, resident=resident, disk=disk)
    train_on(resolved, data, path, out, device, max_minutes, pictures, json_file, logger)


def _refuse_mixture(path: str | None, encode: str | None, resident: str) -> None:
    """Raises InputError unless it is said once what to train from: a cache, or images that are encoded on the fly."""
    if encode is None:
        way_out = "`ci2p encode` makes a cache of images, and --encode on-the-fly trains without one"
        refuse_images("weights", "step", "encoder_precision", why=f"this is of training without a cache; {way_out}")
        if path is None:
            raise InputError("train from what? give a cache: ci2p train caches/NAME, or --shards")
    elif path is not None:
        raise InputError(
            f"--shards {path} and --encode {encode}: a cache is encoded already; leave --encode out, or give images "
            "in its place: --data-dir"
        )
    else:
        refuse_given("cache_dir", "cache_gb", why=f"this is of a remote cache, and --encode {encode} has none")
        if resident == "cuda":
            raise InputError(f"--resident cuda is of a cache, and --encode {encode} has none; give auto, cpu or off")
