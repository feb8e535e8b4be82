"""`ci2p complexity`."""

import click

from pipeline.commands import completion
from pipeline.commands.command import Command
from pipeline.commands.options import json_option
from pipeline.commands.output import report


@click.command(cls=Command, short_help="Parameters and operations of the models.")
@click.option(
    "--image-size",
    "image_sizes",
    type=int,
    multiple=True,
    default=(256,),
    show_default=True,
    help="Pixels; may be repeated.",
)
@click.option(
    "--num-classes", type=click.IntRange(1), default=10, show_default=True, help="The paper's figures are for 10."
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    shell_complete=completion.all_models,
    help="May be repeated. Default: all of ci2p's own.",
)
@click.option(
    "--tokens",
    type=click.Choice(["64", "256"]),
    default="64",
    show_default=True,
    help="Of a 256 px image, as `ci2p train --tokens` has it.",
)
@json_option
def complexity(
    image_sizes: tuple[int, ...], num_classes: int, models: tuple[str, ...], tokens: str, json_file: str | None
) -> None:
    """Parameters and multiply-accumulates of the models, the paper's figures beside ours."""
    from dataclasses import asdict

    from pipeline.models.complexity import measure, table

    measured = measure(models, image_sizes, num_classes, int(tokens))
    report(json_file, table(measured), [asdict(each) for each in measured])
