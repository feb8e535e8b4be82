"""`ci2p report`."""

from pathlib import Path

import click

from pipeline.commands import completion
from pipeline.commands.command import Command
from pipeline.commands.local_path import LocalPath
from pipeline.commands.options import device_option, json_option, weights_option
from pipeline.commands.output import report as print_report


@click.command(cls=Command, short_help="Runs as one page: curves, confusions, calibration, pictures.")
@click.argument("runs", metavar="RUN...", nargs=-1, shell_complete=completion.runs)
@click.option("--out", type=LocalPath(), metavar="FILE.html", help="Default: report.html in the run; of several: here.")
@click.option("--png", type=LocalPath(), metavar="DIR", help="The charts as pictures, too.")
@click.option(
    "--shards", metavar="CACHE", shell_complete=completion.caches, help="Measure on it. Default: each run's own."
)
@weights_option
@device_option
@click.option("--workers", type=click.IntRange(0), help="Decoding threads. Default: one a core, 16 at most.")
@json_option
def report(
    runs: tuple[str, ...],
    out: Path | None,
    png: Path | None,
    shards: str | None,
    weights: str,
    device: str,
    workers: int | None,
    json_file: str | None,
) -> None:
    """Runs as one page to look at and to send: what was run and how to repeat it, learning curves, confusion matrix,
    accuracy by class, calibration, the hardest mistakes and the surest hits as decoded latents, the cache's figures.

    Several runs are laid over one another, those that differ in their seed alone as mean and band. By default the
    newest run under runs/; one that is not finished will do. The page needs no network.
    """
    from pipeline.export.packages import require_packages

    require_packages(("jinja2", "matplotlib"), "ci2p report")
    from pipeline.report.run import write_report

    written = write_report(runs, out=out, png=png, shards=shards, weights=weights, device=device, workers=workers)
    print_report(json_file, written.lines(), written.measured())
