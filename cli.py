"""The door: parse, call one function, print. Heavy imports stay inside the commands, so that --help is quick."""

import errno
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from ci2p_cache.errors import Ci2pError


class _Door(click.Group):
    """Turns every error that a user can mend into one line on standard error and an exit status."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        kwargs["standalone_mode"] = False
        try:
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
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted; run the same command again to continue", 1)
        except OSError as error:
            _fail(_system_error(error), 1)
        sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(status)


def _system_error(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"the disk is full{where}; free some space and run the same command again: what is finished is kept"
    return f"{error.strerror or error}{where}"


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
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("ci2p").setLevel(logging.INFO)


def _json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "json_file", metavar="FILE", help="Write what was measured as JSON ('-': stdout).")(
        command
    )


def _write_json(json_file: str | None, measured: Any) -> None:
    if json_file == "-":
        click.echo(json.dumps(measured, indent=1))
    elif json_file:
        from ci2p_cache.publish import publish

        publish(Path(json_file), (json.dumps(measured, indent=1) + "\n").encode())


def _print(json_file: str | None, line: str) -> None:
    """A line for people; to standard error when standard output carries the JSON."""
    click.echo(line, err=json_file == "-")


_DATASETS = click.Choice(["sample", "folder", "animals10", "imagenet", "webdataset", "huggingface"])


@main.command()
@click.option("--dataset", type=_DATASETS, required=True, help="What --data-dir holds; `sample` is built in.")
@click.option("--data-dir", metavar="DIR", help="Where the images are.")
@click.option("--out", type=click.Path(path_type=Path), metavar="CACHE", help="Default: caches/DATASET.")
@click.option("--split", "splits", multiple=True, help="Only this split; may be repeated. Default: all there are.")
@click.option("--val-fraction", type=float, help="Share of each class kept for validation where there is no val/.")
@click.option("--format", type=click.Choice(["zarr", "webdataset"]), default="zarr", show_default=True)
@click.option("--store", type=click.Choice(["int", "float16"]), default="int", show_default=True)
@click.option("--step", type=float, default=1.0, show_default=True, help="Quantisation step of the int store.")
@click.option("--image-size", type=int, default=256, show_default=True, help="Pixels; a multiple of 32.")
@click.option("--short-edge", type=int, help="Pixels before the centre crop. Default: 292/256 of --image-size.")
@click.option("--resize-mode", type=click.Choice(["crop", "squash"]), default="crop", show_default=True)
@click.option("--views", type=click.Choice(["flip", "plain"]), default="flip", show_default=True)
@click.option("--weights", default="bundled", show_default=True, metavar="bundled|zoo|FILE", help="The encoder's.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Images a batch.")
@click.option("--workers", type=click.IntRange(0), help="Decoding processes. Default: one a core, 16 at most.")
@click.option("--shard-size", type=click.IntRange(1), default=1024, show_default=True, help="Images a shard.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the shuffle and of --val-fraction.")
@click.option("--on-error", type=click.Choice(["stop", "skip"]), default="stop", show_default=True)
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
    weights: str,
    device: str,
    precision: Any,
    workers: int | None,
    json_file: str | None,
    **options: Any,
) -> None:
    """Stage one: encode every image and its mirror image into a cache of latents.

    Run the same command again to continue; finished shards are not touched.
    """
    from pipeline.encode.decoding import default_workers
    from pipeline.encode.run import encode_dataset
    from pipeline.encode.shard_writer import EncodeOptions

    report = encode_dataset(
        dataset,
        data_dir,
        out or Path("caches") / dataset,
        EncodeOptions(workers=default_workers() if workers is None else workers, **options),
        splits=splits or None,
        val_fraction=val_fraction,
        image_size=image_size,
        short_edge=short_edge,
        resize_mode=resize_mode,
        weights=weights,
        device=device,
        precision=precision,
    )
    for line in report.lines():
        _print(json_file, line)
    _write_json(json_file, report.measured())


if __name__ == "__main__":
    main()
