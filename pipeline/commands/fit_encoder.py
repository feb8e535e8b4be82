"""`ci2p fit-encoder`."""

from pathlib import Path
from typing import Any

import click

from pipeline.commands.command import Command
from pipeline.commands.local_path import LocalPath
from pipeline.commands.options import (
    device_option,
    json_option,
    max_minutes_option,
    max_pixels_option,
    on_error_option,
)
from pipeline.commands.output import report

_GROUPS = {
    "What": "data-dir out from eval-dir steps on-error max-pixels",
    "Training": "lmbda batch-size crop-size final-crop-size scale lr seed",
    "Machine": "device precision compile workers max-minutes json",
}


@click.command("fit-encoder", cls=Command, groups=_GROUPS, short_help="Train an encoder of your own.")
@click.option("--data-dir", required=True, metavar="DIR", help="Training images, at any depth.")
@click.option("--out", required=True, type=LocalPath(), metavar="FILE", help="FILE.pth.tar and others.")
@click.option(
    "--from",
    "begin_from",
    default="random",
    show_default=True,
    metavar="random|bundled|zoo|FILE",
    help="Weights to begin with.",
)
@click.option("--eval-dir", metavar="DIR", help="Default: one image in a hundred is held out.")
@click.option("--steps", type=int, default=100_000, show_default=True, help="Optimiser steps.")
@click.option("--lmbda", type=float, default=0.025, show_default=True, help="Of distortion; 0.025 is quality 5.")
@click.option("--batch-size", type=int, default=16, show_default=True, help="Crops a step.")
@click.option("--crop-size", type=int, default=128, show_default=True, help="Pixels.")
@click.option("--final-crop-size", type=int, default=192, show_default=True, help="Pixels, as the learning rate falls.")
@click.option(
    "--scale",
    type=float,
    nargs=2,
    metavar="LOW HIGH",
    default=(0.7, 1.4),
    show_default=True,
    help="Of the images, at random.",
)
@click.option("--lr", type=float, default=3e-4, show_default=True, help="Peak learning rate.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of weights, order and crops.")
@device_option
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="bfloat16",
    show_default=True,
    help="Of the matrix products.",
)
@click.option(
    "--compile/--no-compile",
    "compile_transforms",
    default=True,
    show_default=True,
    help="torch.compile the transforms.",
)
@click.option("--workers", type=click.IntRange(0), help="Decoding processes. Default: one a core, 16 at most.")
@on_error_option
@max_pixels_option
@max_minutes_option
@json_option
def fit_encoder(
    data_dir: str,
    out: Path,
    begin_from: str,
    eval_dir: str | None,
    device: str,
    compile_transforms: bool,
    workers: int | None,
    on_error: Any,
    max_pixels: int,
    max_minutes: float | None,
    json_file: str | None,
    **settings: Any,
) -> None:
    """Train an encoder of your own: a factorized-prior codec, for `encode --weights FILE`.

    Run the same command again to resume; more --steps are welcome until the learning rate falls. --on-error skip leaves
    out images that cannot be used or have gone since, and lists them.
    """
    from pipeline.encode.decoding import default_workers
    from pipeline.encode.fit.run import fit_encoder as fit
    from pipeline.encode.fit.settings import FitSettings

    fitted = fit(
        data_dir,
        out,
        FitSettings(**settings),
        begin_from=begin_from,
        eval_dir=eval_dir,
        device=device,
        compile_transforms=compile_transforms,
        workers=default_workers() if workers is None else workers,
        max_minutes=max_minutes,
        on_error=on_error,
        max_pixels=max_pixels,
    )
    report(json_file, fitted.lines(), fitted.measured())
