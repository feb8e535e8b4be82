"""`ci2p baseline`, which differs from `ci2p train` in its data alone."""

from pathlib import Path
from typing import Any

import click

from pipeline.commands import completion
from pipeline.commands.command import Command
from pipeline.commands.image_options import image_options, open_images, take_images
from pipeline.commands.recipe_options import recipe_options, resolve_recipe
from pipeline.commands.training import IMAGES, LISTED, MACHINE, RECIPE, TABLE, train_on

_GROUPS = {
    "What": f"data-dir dataset model out {LISTED}",
    "Table": TABLE,
    "Images": IMAGES,
    "Recipe": RECIPE,
    "Machine": MACHINE,
}


@click.command(cls=Command, groups=_GROUPS, short_help="Train a model that reads pixels, to compare.")
@click.option(
    "--model",
    metavar="NAME",
    default="vit_base",
    show_default=True,
    shell_complete=completion.baselines,
    help="vit_base, _small, _tiny, _base_p32, cnn_vit, resnet18, resnet50d ...",
)
@image_options
@recipe_options
@click.option("--workers", type=click.IntRange(0), help="Decoding processes. Default: one a core, 16 at most.")
@click.option(
    "--resident",
    type=click.Choice(["auto", "cpu", "off"]),
    default="auto",
    show_default=True,
    help="Where all pixels are held; auto: in memory if they fit.",
)
def baseline(
    recipe: str,
    out: Path | None,
    settings: tuple[str, ...],
    device: str,
    workers: int | None,
    resident: Any,
    max_minutes: float | None,
    pictures: bool,
    json_file: str | None,
    logger: tuple[str, ...],
    **overrides: Any,
) -> None:
    """For comparison only: train a model that reads pixels, with the same loop, recipe, images and order.

    Run the same command again to resume.
    """
    from pipeline.running.launched import launched_as

    launched_as()  # what it refuses is refused before an image is decoded
    images = take_images(overrides)
    resolved = resolve_recipe(recipe, settings, overrides)
    data = open_images(images, workers, resident)
    train_on(
        resolved, data, data.path, out, device, max_minutes, pictures, json_file, logger, num_failed=len(data.failures)
    )
