"""`ci2p export`."""

from pathlib import Path
from typing import Any

import click

from ci2p_cache.errors import InputError
from pipeline.commands import completion
from pipeline.commands.command import Command
from pipeline.commands.local_path import LocalPath
from pipeline.commands.options import json_option, weights_option
from pipeline.commands.output import report


@click.command(cls=Command, short_help="A model as a file for use without ci2p, or for the Hugging Face Hub.")
@click.argument("run", required=False, shell_complete=completion.runs)
@click.option(
    "--to",
    type=click.Choice(["onnx", "torch", "hub"]),
    required=True,
    help="torch: a program of torch.export's. hub: a folder for the Hugging Face Hub.",
)
@click.option(
    "--out",
    type=LocalPath(),
    metavar="PATH",
    help="File, for hub a new folder. Default: model.onnx, model.pt2 or hub/ in RUN.",
)
@click.option("--input", "takes", type=click.Choice(["uint8", "float"]), help="float: [0, 1]. Default: uint8. Not hub.")
@click.option(
    "--images", metavar="DIR", help="Check it on these. Default: latents of the cache, decoded; or noise. Not hub."
)
@click.option("--int8", is_flag=True, help="onnx: also with matrices in int8, calibrated and measured on the cache.")
@click.option(
    "--shards",
    metavar="CACHE",
    shell_complete=completion.caches,
    help="int8: the cache, where the run does not find it.",
)
@click.option("--license", metavar="ID", help="hub: of the weights, as the Hub names it. Default: unknown.")
@click.option("--push", metavar="NAME", help="hub: send the folder to OWNER/NAME on the Hub.")
@weights_option
@json_option
def export(
    run: str | None,
    to: Any,
    out: Path | None,
    takes: Any,
    images: str | None,
    int8: bool,
    shards: str | None,
    license: str | None,
    push: str | None,
    weights: str,
    json_file: str | None,
) -> None:
    """A trained model as a file for use without ci2p: image in, class probabilities out; one for latents beside it.

    RUN is a run or a file of its weights; by default the newest under runs/. What is written is first held against
    ci2p's own prediction. --to hub writes a folder with weights, config and model card, which timm loads.
    """
    if to != "onnx":
        _refuse(to, {"--int8": "" if int8 else None, "--shards": shards})
    elif shards is not None and not int8:
        raise InputError(f"--shards {shards} says nothing without --int8; leave it out")
    if to == "hub":
        _refuse(to, {"--input": takes, "--images": images, "--weights": None if weights == "bundled" else weights})
        from pipeline.export.hub_folder import NO_LICENSE, export_to_hub

        folder = export_to_hub(run, out=out, license=license or NO_LICENSE, push=push)
        report(json_file, folder.lines(), folder.measured())
        return
    _refuse(to, {"--license": license, "--push": push})
    from pipeline.export.run import export as export_run

    files = export_run(
        run, to, out=out, takes=takes or "uint8", images=images, weights=weights, int8=int8, shards=shards
    )
    report(json_file, [line for file in files for line in file.lines()], [file.measured() for file in files])


def _refuse(to: str, given: dict[str, str | None]) -> None:
    for option, value in given.items():
        if value is not None:
            raise InputError(f"{option} {value}".rstrip() + f" says nothing to --to {to}; leave it out")
