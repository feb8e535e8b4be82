"""The door: parse, call one function, print. Heavy imports stay inside the commands, so that --help is quick."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from ci2p_cache.errors import Ci2pError, InputError, describe_system_error
from ci2p_cache.printable import printable
from pipeline.running import signals

_STARTED_BY_GPUS = "CI2P_PROCESS_STARTED"  # `processes.STARTED_HERE`, without importing torch


class _Door(click.Group):
    """Turns every error that a user can mend into one line on standard error and an exit status."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        kwargs["standalone_mode"] = False
        given = args[0] if args else kwargs.get("args")
        kwargs["obj"] = sys.argv[1:] if given is None else list(given)  # what --gpus runs again
        try:
            with signals.ending_by_signals():
                status = super().main(*args, **kwargs)
        except Ci2pError as error:
            _fail(str(error), error.exit_status)
        except click.exceptions.Exit as error:
            sys.exit(error.exit_code)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "ci2p"
            _fail(f"{error.format_message()} See `{path} --help`.", 2)
        except click.ClickException as error:
            _fail(error.format_message(), 1)
        except signals.Ended as error:
            _fail(str(error), error.exit_status)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted; run the same command again to continue", 1)
        except OSError as error:
            _fail(describe_system_error(error), 1)
        sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> NoReturn:
    message = printable(" ".join(message.split()))
    if _STARTED_BY_GPUS in os.environ:
        from pipeline.running.processes import report_failure

        if report_failure(message, status):  # one of several: what happened is said once, by who started them
            sys.exit(status)
    click.echo(f"Error: {message}", err=True)
    sys.exit(status)


def _printable_lines(text: str) -> str:
    """File names that are not UTF-8 would end in an error of the stream's."""
    return "\n".join(map(printable, text.split("\n")))


class _StandardError(logging.Handler):
    """Writes to whatever standard error is at the moment, so that a line lands above a progress bar, not in it."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(_printable_lines(self.format(record)), err=True)


@click.group(cls=_Door, context_settings={"auto_envvar_prefix": "CI2P", "help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ci2p")
def main() -> None:
    """Train Vision Transformers from learned-codec latents.

    \b
    ci2p encode --dataset folder --data-dir DIR    images -> a cache of latents, once
    ci2p train --shards caches/folder              the cache -> a model, as often as you like
    ci2p eval                                      the newest model -> its accuracy

    Every option can also be set by the environment: CI2P_ENCODE_BATCH_SIZE=64 is `ci2p encode --batch-size 64`.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_StandardError()], force=True)
    logging.getLogger("ci2p").setLevel(logging.INFO)


_json_option = click.option(
    "--json", "json_file", metavar="FILE", help="Write what was measured as JSON ('-': stdout)."
)


def _write_json(json_file: str | None, measured: Any) -> None:
    if json_file == "-":
        click.echo(json.dumps(measured, indent=1))
    elif json_file:
        from ci2p_cache.publish import write_output

        write_output(Path(json_file), (json.dumps(measured, indent=1) + "\n").encode())


def _runs_elsewhere(gpus: str | None, device: str) -> bool:
    """Whether `--gpus` has had the command done by processes of its own. Raises Ci2pError as they do."""
    if gpus is None or _STARTED_BY_GPUS in os.environ:
        return False
    from pipeline.running.processes import count_processes, run_processes

    count = count_processes(gpus, device)
    if count > 1:
        door = str(Path(__file__).with_name("ci2p.py"))
        run_processes([door, *click.get_current_context().find_root().obj], count)
    return count > 1


def _is_first() -> bool:
    """Whether this process speaks for all that do the same work."""
    return int(os.environ.get("RANK", "0")) == 0


def _print(json_file: str | None, line: str) -> None:
    """A line for people; to standard error when standard output carries the JSON."""
    click.echo(_printable_lines(line), err=json_file == "-")


_device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
_gpus_option = click.option("--gpus", metavar="N|all", help="A process for each of so many GPUs of this machine.")
_max_minutes_option = click.option(
    "--max-minutes", type=click.FloatRange(min=0, min_open=True), help="End after so long, resumably."
)
_checkpoint_option = click.option("--checkpoint", metavar="RUN|FILE", help="Default: the newest run under runs/.")
_weights_option = click.option(
    "--weights", default="bundled", show_default=True, metavar="bundled|zoo|FILE", help="The encoder's."
)

_on_error_option = click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="skip: leave out images that cannot be used, and list them.",
)

_DATASETS = click.Choice(["sample", "folder", "animals10", "imagenet", "webdataset", "huggingface"])
_STORES = click.Choice(["int", "rans", "float16"])


_data_dir_option = click.option("--data-dir", metavar="DIR", help="Where the images are.")
_val_fraction_option = click.option(
    "--val-fraction", type=float, help="Share of each class kept for validation where there is no val/."
)
_image_size_option = click.option(
    "--image-size", type=int, default=256, show_default=True, help="Pixels; a multiple of 32."
)
_short_edge_option = click.option(
    "--short-edge", type=int, help="Pixels before the centre crop. Default: 292/256 of --image-size."
)
_resize_mode_option = click.option(
    "--resize-mode", type=click.Choice(["crop", "squash"]), default="crop", show_default=True
)


@main.command()
@click.option("--dataset", type=_DATASETS, required=True, help="What --data-dir holds; `sample` is built in.")
@_data_dir_option
@click.option("--out", type=click.Path(path_type=Path), metavar="CACHE", help="Default: caches/DATASET.")
@click.option("--split", "splits", multiple=True, help="Only this split; may be repeated. Default: all there are.")
@_val_fraction_option
@click.option("--format", type=click.Choice(["zarr", "webdataset"]), default="zarr", show_default=True)
@click.option("--store", type=_STORES, default="int", show_default=True, help="rans: int's values, for archives.")
@click.option("--step", type=float, default=1.0, show_default=True, help="Quantisation step of int and rans.")
@_image_size_option
@_short_edge_option
@_resize_mode_option
@click.option(
    "--jpeg-decode",
    type=click.Choice(["full", "scaled"]),
    default="full",
    show_default=True,
    help="scaled: large JPEGs at a half to an eighth, quicker, slightly other values.",
)
@click.option("--views", type=click.Choice(["flip", "plain"]), default="flip", show_default=True)
@click.option(
    "--crops", type=click.IntRange(0), default=0, show_default=True, help="Random-resized, per training image."
)
@click.option("--crop-scale", type=float, nargs=2, metavar="LOW HIGH", help="Of the area. Default: 0.25 1.0.")
@_weights_option
@_device_option
@_gpus_option
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option(
    "--engine",
    type=click.Choice(["torch", "openvino"]),
    default="torch",
    show_default=True,
    help="openvino: quicker on a CPU; an extra.",
)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Images a batch.")
@click.option("--workers", type=click.IntRange(0), help="Decoding processes. Default: one a core, 16 at most.")
@click.option("--shard-size", type=click.IntRange(1), default=1024, show_default=True, help="Images a shard.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the shuffle, --crops and --val-fraction.")
@_on_error_option
@click.option("--dry-run", is_flag=True, help="Say what would be encoded, how large and how long, and stop.")
@_json_option
def encode(
    dataset: str,
    data_dir: str | None,
    out: Path | None,
    splits: tuple[str, ...],
    val_fraction: float | None,
    image_size: int,
    short_edge: int | None,
    resize_mode: Any,
    jpeg_decode: Any,
    weights: str,
    device: str,
    precision: Any,
    engine: Any,
    gpus: str | None,
    workers: int | None,
    dry_run: bool,
    json_file: str | None,
    **options: Any,
) -> None:
    """Stage one: encode every image and its mirror image into a cache of latents.

    --crops K adds K random-resized crops of every training image, each with its mirror image; of all these views,
    training shows one an epoch.

    Run the same command again to continue; finished shards are not touched.
    """
    if not dry_run and _runs_elsewhere(gpus, device):
        return
    from pipeline.encode.decoding import default_workers
    from pipeline.encode.report import merge_reports
    from pipeline.encode.run import encode_dataset, plan_encoding
    from pipeline.encode.shard_writer import EncodeOptions
    from pipeline.running.launched import gather, launched_as

    out = out or Path("caches") / dataset
    encode_options = EncodeOptions(workers=default_workers() if workers is None else workers, **options)
    settings: Any = {
        "splits": splits or None,
        "val_fraction": val_fraction,
        "image_size": image_size,
        "short_edge": short_edge,
        "resize_mode": resize_mode,
        "jpeg_decode": jpeg_decode,
        "weights": weights,
        "device": device,
        "precision": precision,
        "engine": engine,
    }
    report: Any
    if dry_run:
        report = plan_encoding(dataset, data_dir, out, encode_options, **settings)
    else:
        report = encode_dataset(dataset, data_dir, out, encode_options, **settings)
        if _STARTED_BY_GPUS in os.environ:  # then one speaks for all; under torchrun nobody waits for the others
            report = merge_reports(gather(report, launched_as()))
            if not _is_first():
                return
    for line in report.lines():
        _print(json_file, line)
    _write_json(json_file, report.measured())


def _recipe_options(command: Any) -> Any:
    """What `train` and `baseline` share: everything that makes up the recipe, and where and how long it runs."""
    options = [
        click.option("--recipe", default="paper-animals10", show_default=True, metavar="NAME|FILE"),
        click.option("--out", type=click.Path(path_type=Path), metavar="RUN", help="Default: runs/MODEL-DATA-SEED."),
        click.option("--epochs", type=int),
        click.option("--batch-size", type=int, help="Over all processes together."),
        click.option("--lr", type=float),
        click.option("--seed", type=int),
        click.option("--precision", type=click.Choice(["float32", "bfloat16", "float16"])),
        click.option("--compile/--no-compile", default=None, help="torch.compile the model."),
        click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Anything else in the recipe."),
        _device_option,
        _max_minutes_option,
        _json_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _resolve_recipe(recipe: str, settings: tuple[str, ...], overrides: dict[str, Any]) -> Any:
    """The recipe of a name or file, with --set and the options that were given laid over it."""
    from pipeline.train.recipe import load_recipe, parse_setting

    given = {key: value for key, value in overrides.items() if value is not None}
    return load_recipe(recipe, dict(map(parse_setting, settings)) | given)


def _train(
    recipe: Any,
    data: Any,
    name: str,
    out: Path | None,
    device: str,
    max_minutes: float | None,
    json_file: str | None,
    **figures: Any,
) -> None:
    """Trains on data that go by `name`, and prints what came of it, with further `figures` in the JSON."""
    from pipeline.train.loop import train as train_model
    from pipeline.train.run_folder import default_run

    run = out or default_run(recipe.model, name, recipe.seed)
    result = train_model(recipe, data, run, device=device, max_minutes=max_minutes)
    if _is_first():
        best = "not evaluated yet" if result.best_top1 is None else f"best top-1 {100 * result.best_top1:.2f} %"
        state = "finished" if result.finished else "not finished; run the same command to go on"
        _print(json_file, f"{best}, {result.epochs} epochs in {result.seconds:.0f} s ({state})")
        _print(json_file, f"run: {result.run}")
        measured = {
            "best_top1": result.best_top1,
            "final_top1": result.final_top1,
            "epochs": result.epochs,
            "images_per_s": result.images_per_s,
            "seconds": result.seconds,
            "params": result.params,
            "run": str(result.run),
        } | figures
        _write_json(json_file, measured)


@main.command()
@click.option("--shards", required=True, metavar="CACHE", help="A finished cache: a folder, or an fsspec URL.")
@click.option("--model", help="ci2p_vit_base, _ds, _large, _small, _tiny, or a ViT of timm's. Default: the recipe's.")
@click.option("--pretrained/--no-pretrained", default=None, help="Start a ViT of timm's from its published weights.")
@_recipe_options
@_gpus_option
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Decoding threads.")
@click.option("--resident", type=click.Choice(["auto", "cpu", "cuda", "off"]), default="auto", show_default=True)
def train(
    shards: str,
    recipe: str,
    out: Path | None,
    settings: tuple[str, ...],
    device: str,
    gpus: str | None,
    workers: int,
    resident: Any,
    max_minutes: float | None,
    json_file: str | None,
    **overrides: Any,
) -> None:
    """Stage two: train a model from a cache of latents.

    Run the same command again to resume. Several machines: torchrun --no-python ci2p train ...
    """
    if _runs_elsewhere(gpus, device):
        return
    from pipeline.train.data import open_training_data

    resolved = _resolve_recipe(recipe, settings, overrides)
    data = open_training_data(shards, workers=workers, resident=resident)
    _train(resolved, data, shards, out, device, max_minutes, json_file)


@main.command()
@click.option("--model", default="vit_base", show_default=True, help="vit_base, _small, _tiny, _base_p32, cnn_vit ...")
@click.option("--dataset", type=_DATASETS, default="folder", show_default=True, help="What --data-dir holds.")
@_data_dir_option
@_val_fraction_option
@_image_size_option
@_short_edge_option
@_resize_mode_option
@click.option("--data-seed", type=int, default=0, show_default=True, help="What --seed is to `encode`.")
@_recipe_options
@click.option("--workers", type=click.IntRange(0), help="Decoding processes. Default: one a core, 16 at most.")
@click.option("--resident", type=click.Choice(["auto", "cpu", "off"]), default="auto", show_default=True)
@_on_error_option
def baseline(
    dataset: str,
    data_dir: str | None,
    val_fraction: float | None,
    image_size: int,
    short_edge: int | None,
    resize_mode: Any,
    data_seed: int,
    recipe: str,
    out: Path | None,
    settings: tuple[str, ...],
    device: str,
    workers: int | None,
    resident: Any,
    on_error: Any,
    max_minutes: float | None,
    json_file: str | None,
    **overrides: Any,
) -> None:
    """For comparison only: train a model that reads pixels, with the same loop, recipe, images and order.

    Run the same command again to resume.
    """
    from pipeline.baselines.pixels import open_pixel_data
    from pipeline.encode.decoding import default_workers

    resolved = _resolve_recipe(recipe, settings, overrides)
    data = open_pixel_data(
        dataset,
        data_dir,
        workers=default_workers() if workers is None else workers,
        val_fraction=val_fraction,
        image_size=image_size,
        short_edge=short_edge,
        resize_mode=resize_mode,
        data_seed=data_seed,
        resident=resident,
        on_error=on_error,
    )
    _train(resolved, data, data.path, out, device, max_minutes, json_file, num_failed=len(data.failures))


@main.command("eval")
@_checkpoint_option
@click.option("--shards", metavar="CACHE", help="Default: the cache that the model was trained from.")
@click.option("--images", metavar="DIR", help="Raw images instead, through the encoder that made the cache.")
@click.option("--split", default="val", show_default=True, help="Which part of the data set.")
@click.option("--predictions", "table", metavar="FILE", help="Write key, label, prediction and probability as CSV.")
@click.option("--tta", is_flag=True, help="Average over the image and its mirror image.")
@_weights_option
@_device_option
@_gpus_option
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option("--workers", type=click.IntRange(0), help="Decoding threads, or processes for --images.")
@_on_error_option
@_json_option
def evaluate(
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
    on_error: Any,
    json_file: str | None,
) -> None:
    """Measure a trained model, on a cache or on raw images.

    Of --images that the cache was made from, exactly those of --split are measured; of another folder all, unless the
    model was trained on some of them.
    """
    if table == "-" and json_file == "-":
        raise InputError("--predictions - and --json -: both want standard output; give one of them a file")
    if _runs_elsewhere(gpus, device):
        return
    from pipeline.evaluate.run import evaluate as evaluate_model
    from pipeline.evaluate.tables import refuse_no_file

    if table is not None:
        refuse_no_file(table, "--predictions")

    report = evaluate_model(
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
    )
    if _is_first():
        for line in report.lines():
            _print("-" if table == "-" else json_file, line)
        if table is not None:
            report.write_csv(table)
        _write_json(json_file, report.measured())


@main.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@_checkpoint_option
@click.option("--csv", "table", metavar="FILE", help="Write key, class, probability, then those of the next --top.")
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="How many classes to say.")
@_weights_option
@_device_option
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Images a batch.")
@click.option("--workers", type=click.IntRange(0), help="Decoding processes. Default: one a core, 16 at most.")
@_json_option
def predict(
    inputs: tuple[str, ...],
    checkpoint: str | None,
    table: str | None,
    top: int,
    weights: str,
    device: str,
    batch_size: int,
    workers: int | None,
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
    report = predict_images(checkpoint, inputs, weights=weights, device=device, batch_size=batch_size, workers=workers)
    if table is None:
        for line in report.lines(top):
            _print(json_file, line)
    else:
        report.write_csv(table, top)
    _write_json(json_file, report.measured())
    notes = report.notes()
    if table not in (None, "-"):
        notes.append(f"{table}: predictions of {len(report.keys)} images")
    for note in notes:
        click.echo(_printable_lines(note), err=True)
    report.check()


@main.command()
@click.argument("run", required=False)
@click.option("--to", type=click.Choice(["onnx", "torch"]), required=True, help="torch: a program of torch.export's.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Default: model.onnx or .pt2 in RUN.")
@click.option(
    "--input", "takes", type=click.Choice(["uint8", "float"]), default="uint8", show_default=True, help="float: [0, 1]."
)
@click.option("--images", metavar="DIR", help="Check it on these. Default: latents of the cache, decoded; or noise.")
@_weights_option
@_json_option
def export(
    run: str | None, to: Any, out: Path | None, takes: Any, images: str | None, weights: str, json_file: str | None
) -> None:
    """A trained model as a file for use without ci2p: image in, class probabilities out; one for latents beside it.

    RUN is a run or a file of its weights; by default the newest under runs/. What is written is first held against
    ci2p's own prediction.
    """
    from pipeline.export.run import export as export_run

    files = export_run(run, to, out=out, takes=takes, images=images, weights=weights)
    for file in files:
        for line in file.lines():
            _print(json_file, line)
    _write_json(json_file, [file.measured() for file in files])


@main.command("fit-encoder")
@click.option("--data-dir", required=True, metavar="DIR", help="Training images, at any depth.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FILE", help="FILE.pth.tar and others.")
@click.option("--from", "begin_from", default="random", show_default=True, metavar="random|bundled|zoo|FILE")
@click.option("--eval-dir", metavar="DIR", help="Default: one image in a hundred is held out.")
@click.option("--steps", type=int, default=100_000, show_default=True)
@click.option("--lmbda", type=float, default=0.025, show_default=True, help="Of distortion; 0.025 is quality 5.")
@click.option("--batch-size", type=int, default=16, show_default=True)
@click.option("--crop-size", type=int, default=128, show_default=True, help="Pixels.")
@click.option("--final-crop-size", type=int, default=192, show_default=True, help="Pixels, as the learning rate falls.")
@click.option("--scale", type=float, nargs=2, default=(0.7, 1.4), show_default=True, help="Of the images, at random.")
@click.option("--lr", type=float, default=3e-4, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@_device_option
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="bfloat16", show_default=True)
@click.option("--compile/--no-compile", "compile_transforms", default=True, show_default=True)
@click.option("--workers", type=click.IntRange(0), help="Decoding processes. Default: one a core, 16 at most.")
@_on_error_option
@_max_minutes_option
@_json_option
def fit_encoder(
    data_dir: str,
    out: Path,
    begin_from: str,
    eval_dir: str | None,
    device: str,
    compile_transforms: bool,
    workers: int | None,
    on_error: Any,
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

    report = fit(
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
    )
    for line in report.lines():
        _print(json_file, line)
    _write_json(json_file, report.measured())


@main.command()
@click.argument("cache", type=click.Path(path_type=Path))
@click.option("--images", "grid", type=click.Path(path_type=Path), metavar="PNG", help="Draw decoded latents into it.")
@click.option("--split", default="val", show_default=True, help="Of --images.")
@click.option("--count", type=click.IntRange(1), default=16, show_default=True, help="Of --images.")
@click.option("--data-dir", metavar="DIR", help="The originals: prints PSNR of the --images against them.")
@_weights_option
@_device_option
@_on_error_option
@_json_option
def inspect(
    cache: Path,
    grid: Path | None,
    split: str,
    count: int,
    data_dir: str | None,
    weights: str,
    device: str,
    on_error: Any,
    json_file: str | None,
) -> None:
    """What is in a cache: spec, classes, counts, bytes per view, bits per pixel, value range; how it looks."""
    from ci2p_cache.summary import describe_split, summarise_split
    from ci2p_cache.verify import find_splits

    if data_dir and grid is None:
        raise InputError("--data-dir is for comparing pictures with; give --images FILE.png too")
    summaries = {name: summarise_split(cache, name) for name in find_splits(cache)}
    for summary in summaries.values():
        for line in describe_split(summary):
            _print(json_file, line)
    if grid is not None:
        from pipeline.encode.gallery import draw_gallery

        gallery = draw_gallery(
            cache, split, grid, count=count, weights=weights, data_dir=data_dir, device=device, on_error=on_error
        )
        for line in gallery.lines():
            _print(json_file, line)
        if gallery.psnr:
            summaries[split] |= {"psnr": gallery.psnr}
    _write_json(json_file, summaries)


@main.command()
@click.argument("cache", type=click.Path(path_type=Path))
@click.option("--data-dir", metavar="DIR", help="Hold every image against it: what has changed, gone or come since.")
@_json_option
def verify(cache: Path, data_dir: str | None, json_file: str | None) -> None:
    """Recount and rehash a cache; exit status 1 and a list when anything is missing, truncated or changed."""
    from ci2p_cache.errors import WorkError
    from ci2p_cache.verify import find_splits, verify_split

    problems = {split: verify_split(cache, split) for split in find_splits(cache)}
    sound = "every shard is as it was written"
    if data_dir is not None:
        from pipeline.encode.source_check import check_source

        sound += f", and made from what {data_dir} holds"
        for split, found in problems.items():
            found += check_source(cache, split, data_dir)
    for split, found in problems.items():
        for line in found or [f"{split}: {sound}"]:
            _print(json_file, line)
    _write_json(json_file, problems)
    count = sum(map(len, problems.values()))
    if count:
        raise WorkError(f"{cache} has {count} problems; they are listed above")


@main.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--format", "target_format", type=click.Choice(["zarr", "webdataset"]), help="Default: SOURCE's.")
@click.option("--store", type=_STORES, help="Default: SOURCE's. int and rans hold the same values.")
@_json_option
def convert(source: Path, target: Path, target_format: Any, store: Any, json_file: str | None) -> None:
    """The same samples and values in another format or store; run it again to continue.

    Without --format and --store, a cache of an older format version is brought over to today's.
    """
    from ci2p_cache.convert import convert_split, is_outdated
    from ci2p_cache.summary import size_figures
    from ci2p_cache.verify import find_splits

    splits = find_splits(source)
    if not target_format and not store and not any(is_outdated(source / split) for split in splits):
        raise InputError("convert to what? give --format, --store or both")
    measured = {}
    for split in splits:
        manifest = convert_split(source, target, split, target_format, store)
        measured[split] = {"num_images": manifest.num_images, "num_views": manifest.num_views, **size_figures(manifest)}
        size = measured[split]["bytes_per_view"]
        _print(json_file, f"{split}: {manifest.num_images} images, {manifest.num_views} views, {size:.0f} bytes a view")
    _write_json(json_file, measured)


@main.command()
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
@click.option("--model", "models", multiple=True, metavar="NAME", help="May be repeated. Default: all of ci2p's own.")
@_json_option
def complexity(image_sizes: tuple[int, ...], num_classes: int, models: tuple[str, ...], json_file: str | None) -> None:
    """Parameters and multiply-accumulates of the models, the paper's figures beside ours."""
    from dataclasses import asdict

    from pipeline.models.complexity import measure, table

    measured = measure(models, image_sizes, num_classes)
    for line in table(measured):
        _print(json_file, line)
    _write_json(json_file, [asdict(each) for each in measured])


if __name__ == "__main__":
    main()
