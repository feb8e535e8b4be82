"""`ci2p encode`."""

import os
from typing import Any

import click

from ci2p_cache.errors import InputError
from pipeline.commands import completion
from pipeline.commands.command import Command
from pipeline.commands.gpus import STARTED_BY_GPUS, is_first, runs_elsewhere
from pipeline.commands.local_path import CachePath
from pipeline.commands.options import (
    STORES,
    FloatRange,
    augment_option,
    column_options,
    crop_scale_option,
    data_dir_option,
    dataset_option,
    device_option,
    gpus_option,
    image_size_option,
    json_option,
    max_pixels_option,
    on_error_option,
    record_images_option,
    resize_mode_option,
    short_edge_option,
    val_fraction_option,
    weights_option,
)
from pipeline.commands.output import report

GROUPS = {
    "What": "dataset data-dir out split val-fraction seed on-error max-pixels dry-run",
    "Table": "image-column label-column key-column class-names",
    "Views": "image-size views crops crop-scale augment short-edge resize-mode jpeg-decode weights",
    "Store": "store step format shard-size record-images",
    "Machine": "device gpus launch ray-address ray-gpus ray-cpus batch-size workers precision engine json",
}


@click.command(cls=Command, groups=GROUPS, short_help="Stage one: images -> a cache of latents.")
@dataset_option(required=True)
@data_dir_option
@click.option(
    "--out",
    type=CachePath(),
    metavar="CACHE|URL",
    shell_complete=completion.caches,
    help="Default: caches/DATA.",
)
@click.option(
    "--split", "splits", multiple=True, metavar="NAME", help="Only this split; may be repeated. Default: all there are."
)
@val_fraction_option
@column_options
@click.option(
    "--format",
    type=click.Choice(["zarr", "webdataset"]),
    default="zarr",
    show_default=True,
    help="Of the shards: zarr arrays, or tars.",
)
@click.option(
    "--store",
    type=STORES,
    default="int",
    show_default=True,
    help="Integers, the same coded smaller for archives, or float16.",
)
@click.option("--step", type=float, default=1.0, show_default=True, help="Quantisation step of int and rans.")
@image_size_option
@short_edge_option
@resize_mode_option
@click.option(
    "--jpeg-decode",
    type=click.Choice(["full", "scaled"]),
    default="full",
    show_default=True,
    help="scaled: large JPEGs at a half to an eighth, quicker, slightly other values.",
)
@click.option(
    "--views",
    type=click.Choice(["flip", "plain"]),
    default="flip",
    show_default=True,
    help="flip: the mirror image too, which training shows in turn.",
)
@click.option(
    "--crops", type=click.IntRange(0), default=0, show_default=True, help="Random-resized crops of each training image."
)
@crop_scale_option
@augment_option("What crops go through besides; authors: as the paper's authors do, docs/paper.md.")
@weights_option
@device_option
@gpus_option
@click.option("--launch", type=click.Choice(["ray"]), help="ray: encoders on all nodes of a Ray cluster; an extra.")
@click.option("--ray-address", metavar="HOST:PORT", help="Default: RAY_ADDRESS, or the cluster that runs here.")
@click.option(
    "--ray-gpus", type=FloatRange(min=0, min_open=True), help="GPUs an encoder, 0.5 for two on one. Default: 1."
)
@click.option("--ray-cpus", type=FloatRange(min=1), help="Cores an encoder. Default: its share of a node's.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the encoder's products.",
)
@click.option(
    "--engine",
    type=click.Choice(["torch", "openvino"]),
    default="torch",
    show_default=True,
    help="openvino: quicker on a CPU; an extra.",
)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Images a batch.")
@click.option("--workers", type=click.IntRange(0), help="Decoding processes. Default: one a core, 16 at most.")
@click.option(
    "--shard-size",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="Images a shard. A killed encode loses up to a shard's work: a minute at 8 images/s, which two cores do.",
)
@record_images_option
@click.option("--seed", type=int, default=0, show_default=True, help="Of the shuffle, --crops and --val-fraction.")
@on_error_option
@max_pixels_option
@click.option("--dry-run", is_flag=True, help="Say what would be encoded, how large and how long, and stop.")
@json_option
def encode(
    dataset: str,
    data_dir: str | None,
    out: Any,
    splits: tuple[str, ...],
    val_fraction: float | None,
    image_column: str | None,
    label_column: str | None,
    key_column: str | None,
    class_names: str | None,
    image_size: int,
    short_edge: int | None,
    resize_mode: Any,
    jpeg_decode: Any,
    max_pixels: int,
    weights: str,
    device: str,
    precision: Any,
    engine: Any,
    gpus: str | None,
    launch: str | None,
    ray_address: str | None,
    ray_gpus: float | None,
    ray_cpus: float | None,
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
    from pipeline.encode.ray_options import options_of_launch

    on_ray = options_of_launch(launch, ray_address, ray_gpus, ray_cpus, workers)
    if on_ray is not None and gpus is not None:
        raise InputError(f"--gpus {gpus} and --launch ray: Ray starts the processes; leave one of them out")
    if not dry_run and runs_elsewhere(gpus, device):
        return
    from pipeline.encode.datasets.table_columns import TableColumns
    from pipeline.encode.decoding import default_workers
    from pipeline.encode.default_cache import default_cache
    from pipeline.encode.report import merge_reports
    from pipeline.encode.run import encode_dataset, plan_encoding
    from pipeline.encode.shard_writer import EncodeOptions
    from pipeline.running.launched import gather, launched_as

    out = out or default_cache(dataset, data_dir)
    encode_options = EncodeOptions(workers=default_workers() if workers is None else workers, **options)
    settings: Any = {
        "splits": splits or None,
        "val_fraction": val_fraction,
        "columns": TableColumns(image_column, label_column, key_column, class_names),
        "image_size": image_size,
        "short_edge": short_edge,
        "resize_mode": resize_mode,
        "jpeg_decode": jpeg_decode,
        "max_pixels": max_pixels,
        "weights": weights,
        "device": device,
        "precision": precision,
        "engine": engine,
        "ray": on_ray,
    }
    encoded: Any
    if dry_run:
        encoded = plan_encoding(dataset, data_dir, out, encode_options, **settings)
    else:
        encoded = encode_dataset(dataset, data_dir, out, encode_options, **settings)
        if STARTED_BY_GPUS in os.environ:  # then one speaks for all; under torchrun nobody waits for the others
            encoded = merge_reports(gather(encoded, launched_as()))
            if not is_first():
                return
    report(json_file, encoded.lines(), encoded.measured())
