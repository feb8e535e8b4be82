"""`ci2p eval` and `ci2p predict`."""

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
    checkpoint_option,
    device_option,
    given_once,
    gpus_option,
    json_option,
    max_pixels_option,
    on_error_option,
    weights_option,
)
from pipeline.commands.output import print_line, printable_lines, report, write_json

_EVAL_GROUPS = {
    "What": "checkpoint shards images split predictions tta weights on-error max-pixels",
    "Machine": "device gpus batch-size workers cache-dir cache-gb json",
}
_PREDICT_GROUPS = {"What": "checkpoint csv top weights max-pixels", "Machine": "device batch-size workers json"}


@click.command("eval", cls=Command, groups=_EVAL_GROUPS, short_help="Measure a trained model, on a cache or images.")
@click.argument("run", required=False, shell_complete=completion.runs)
@checkpoint_option
@click.option(
    "--shards",
    metavar="CACHE",
    shell_complete=completion.caches,
    help="Default: the cache that the model was trained from.",
)
@click.option("--images", metavar="DIR", help="Raw images instead, through the encoder that made the cache.")
@click.option("--split", default="val", show_default=True, metavar="NAME", help="Which part of the data set.")
@click.option("--predictions", "table", metavar="FILE", help="Write key, label, prediction and probability as CSV.")
@click.option("--tta", is_flag=True, help="Average over the image and its mirror image.")
@weights_option
@device_option
@gpus_option
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Images a batch.")
@click.option("--workers", type=click.IntRange(0), help="Decoding threads, or processes for --images.")
@cache_dir_option
@cache_gb_option
@on_error_option
@max_pixels_option
@json_option
def evaluate(
    run: str | None,
    checkpoint: str | None,
    shards: str | None,
    images: str | None,
    split: str,
    table: str | None,
    tta: bool,
    weights: str,
    device: str,
    gpus: str | None,
    batch_size: int,
    workers: int | None,
    cache_dir: str | None,
    cache_gb: float | None,
    on_error: Any,
    max_pixels: int,
    json_file: str | None,
) -> None:
    """Measure a trained model, on a cache or on raw images: RUN, or by default the newest under runs/.

    Of --images that the cache was made from, exactly those of --split are measured; of another folder all, unless the
    model was trained on some of them.
    """
    if table == "-" and json_file == "-":
        raise InputError("--predictions - and --json -: both want standard output; give one of them a file")
    checkpoint = given_once(run, checkpoint, "--checkpoint")
    from ci2p_cache.disk_cache import local_disk

    disk = local_disk(cache_dir, cache_gb)
    if runs_elsewhere(gpus, device):
        return
    from pipeline.evaluate.run import evaluate as evaluate_model
    from pipeline.evaluate.tables import refuse_no_file

    if table is not None:
        refuse_no_file(table, "--predictions")

    measured = evaluate_model(
        checkpoint,
        shards=shards,
        images=images,
        split=split,
        tta=tta,
        weights=weights,
        device=device,
        batch_size=batch_size,
        workers=workers,
        on_error=on_error,
        max_pixels=max_pixels,
        disk=disk,
    )
    if is_first():
        if table == "-":
            write_json(json_file, measured.measured())  # first, for whoever reads the table may go away
        if table is not None:
            measured.write_csv(table)
        if table == "-":
            for line in measured.lines():
                print_line("-", line)
        else:
            report(json_file, measured.lines(), measured.measured())


@click.command(cls=Command, groups=_PREDICT_GROUPS)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@checkpoint_option
@click.option("--csv", "table", metavar="FILE", help="Write key, class, probability, then those of the next --top.")
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="How many classes to say.")
@weights_option
@device_option
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Images a batch.")
@click.option("--workers", type=click.IntRange(0), help="Decoding processes. Default: one a core, 16 at most.")
@max_pixels_option
@json_option
def predict(
    inputs: tuple[str, ...],
    checkpoint: str | None,
    table: str | None,
    top: int,
    weights: str,
    device: str,
    batch_size: int,
    workers: int | None,
    max_pixels: int,
    json_file: str | None,
) -> None:
    """Classes and probabilities of images.

    INPUT is an image file, a folder (looked through at any depth), a pattern such as 'pics/**/*.jpg', a URL, or - for
    an image on standard input. An image that cannot be used is named, the others are predicted, and the exit status
    is 1.
    """
    if table == "-" and json_file == "-":
        raise InputError("--csv - and --json -: both want standard output; give one of them a file")
    from pipeline.evaluate.run import predict as predict_images
    from pipeline.evaluate.tables import refuse_no_file

    if table is not None:
        refuse_no_file(table, "--csv")
    predicted = predict_images(
        checkpoint,
        inputs,
        weights=weights,
        device=device,
        batch_size=batch_size,
        workers=workers,
        max_pixels=max_pixels,
    )
    if table == "-":
        write_json(json_file, predicted.measured())  # first, for whoever reads the table may go away
    if table is not None:
        predicted.write_csv(table, top)
    report(None if table == "-" else json_file, predicted.lines(top) if table is None else (), predicted.measured())
    notes = predicted.notes()
    if table not in (None, "-"):
        notes.append(f"{table}: predictions of {counted(len(predicted.keys), 'image')}")
    for note in notes:
        click.echo(printable_lines(note), err=True)
    predicted.check()
