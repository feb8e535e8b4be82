"""`ci2p export`."""

from pathlib import Path
from typing import Any

import click

from pipeline.commands import completion
from pipeline.commands.command import Command
from pipeline.commands.options import json_option, weights_option
from pipeline.commands.output import report


@click.command(cls=Command, short_help="A model as a file for use without ci2p.")
@click.argument("run", required=False, shell_complete=completion.runs)
@click.option("--to", type=click.Choice(["onnx", "torch"]), required=True, help="torch: a program of torch.export's.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Default: model.onnx or .pt2 in RUN.")
@click.option(
    "--input", "takes", type=click.Choice(["uint8", "float"]), default="uint8", show_default=True, help="float: [0, 1]."
)
@click.option("--images", metavar="DIR", help="Check it on these. Default: latents of the cache, decoded; or noise.")
@weights_option
@json_option
def export(
    run: str | None, to: Any, out: Path | None, takes: Any, images: str | None, weights: str, json_file: str | None
) -> None:
    """A trained model as a file for use without ci2p: image in, class probabilities out; one for latents beside it.

    RUN is a run or a file of its weights; by default the newest under runs/. What is written is first held against
    ci2p's own prediction.
    """
    from pipeline.export.run import export as export_run

    files = export_run(run, to, out=out, takes=takes, images=images, weights=weights)
    report(json_file, [line for file in files for line in file.lines()], [file.measured() for file in files])
