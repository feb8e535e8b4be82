"""Stage one's run: a data set and settings in, a cache of all its splits and a report out."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypedDict, Unpack

from ci2p_cache import codecs
from ci2p_cache.bounds import MOST_CLASSES
from ci2p_cache.claim import check_claim, spec_of_settings
from ci2p_cache.errors import InputError
from ci2p_cache.remote_path import AnyPath
from ci2p_cache.spec import CacheSpec, hash_items, record_size
from ci2p_cache.views import view_names
from pipeline.encode.codec import ENCODER
from pipeline.encode.crops import NO_CROPS, Crops, random_crops
from pipeline.encode.datasets import ImageDataset, ImageSplit, open_dataset, part_images
from pipeline.encode.datasets.description import describe_dataset, refuse_left_out_pictures
from pipeline.encode.datasets.found import FoundImages
from pipeline.encode.datasets.table_columns import NO_COLUMNS, TableColumns, refuse_columns
from pipeline.encode.encoder import Encoder, Engine, Precision, load_encoder
from pipeline.encode.estimate import estimate
from pipeline.encode.kept_items import fit_to_cache, keep_items
from pipeline.encode.preprocess import JpegDecode, Preprocessing, ResizeMode, preprocessing
from pipeline.encode.ray_options import RayOptions
from pipeline.encode.report import EncodePlan, EncodeReport
from pipeline.encode.shard_writer import EncodeOptions
from pipeline.encode.split_writer import WriteShards, encode_split, writing_here
from pipeline.running.launched import Launched, launched_as
from pipeline.running.pixel_limit import MAX_PIXELS

logger = logging.getLogger("ci2p")

_CROPPED_SPLIT = "train"  # evaluation shows the plain view and its mirror image


class Settings(TypedDict, total=False):
    """What is encoded, and by what; every field as the option of `ci2p encode` that bears its name."""

    splits: Sequence[str] | None
    val_fraction: float | None
    columns: TableColumns
    image_size: int
    short_edge: int | None
    resize_mode: ResizeMode
    jpeg_decode: JpegDecode
    max_pixels: int
    weights: str
    device: str
    precision: Precision
    engine: Engine
    found: FoundImages | None  # no option: images that a program has given, in place of `data_dir`
    ray: RayOptions | None  # a cluster that encodes, in place of this process


@dataclass(frozen=True)
class _Task:
    """Everything that `encode_dataset` needs to begin."""

    opened: ImageDataset
    fitted: dict[str, ImageSplit]
    specs: dict[str, CacheSpec]
    pre: Preprocessing
    encoder: Encoder
    launched: Launched


def encode_dataset(
    dataset: str, data_dir: str | None, cache: AnyPath, options: EncodeOptions, **settings: Unpack[Settings]
) -> EncodeReport:
    """Encodes the splits of a data set into `cache`, or goes on where a run with the same settings stopped.

    Says what it recognised before it begins. Under torchrun every process writes its own share of the shards, on its
    own GPU. Raises InputError for wrong settings, before anything is written, and WorkError for an image that cannot be
    used.
    """
    task = _prepare(dataset, data_dir, cache, options, **settings)
    plans = keep_items(task.opened, cache, seed=options.seed)
    with _writing(task, settings) as write:
        reports = [
            encode_split(
                split,
                task.specs[name],
                task.pre,
                write,
                cache,
                options,
                left_out=task.opened.left_out_of(name),
                order=plans.get(name),
                rank=task.launched.rank,
                world_size=task.launched.world_size,
            )
            for name, split in task.fitted.items()
        ]
    return EncodeReport(cache, reports)


@contextmanager
def _writing(task: _Task, settings: Settings) -> Iterator[WriteShards]:
    """Who writes the shards: this process, or a cluster of encoders of which this one has only the plan."""
    on_ray = settings.get("ray")
    if on_ray is None:
        yield writing_here(task.encoder)
        return
    from pipeline.encode.ray_encoder import EncoderSettings
    from pipeline.encode.ray_session import ray_cluster

    encoder = EncoderSettings(
        weights=settings.get("weights", "bundled"),
        device=settings.get("device", "auto"),
        precision=task.encoder.precision,
        engine=task.encoder.engine,
        weights_sha256=task.encoder.weights_sha256,
    )
    with ray_cluster(on_ray, encoder) as cluster:
        yield cluster.write_shards


def plan_encoding(
    dataset: str, data_dir: str | None, cache: AnyPath, options: EncodeOptions, **settings: Unpack[Settings]
) -> EncodePlan:
    """What `encode_dataset` would do with the same arguments: nothing is written. Raises InputError as it does."""
    task = _prepare(dataset, data_dir, cache, options, **settings)
    estimates = {
        name: estimate(split, task.specs[name], task.pre, task.encoder, options) for name, split in task.fitted.items()
    }
    return EncodePlan(cache, task.opened, estimates)


def _prepare(
    dataset: str,
    data_dir: str | None,
    cache: AnyPath,
    options: EncodeOptions,
    *,
    splits: Sequence[str] | None = None,
    val_fraction: float | None = None,
    columns: TableColumns = NO_COLUMNS,
    image_size: int = 256,
    short_edge: int | None = None,
    resize_mode: ResizeMode = "crop",
    jpeg_decode: JpegDecode = "full",
    max_pixels: int = MAX_PIXELS,
    weights: str = "bundled",
    device: str = "auto",
    precision: Precision = "float32",
    engine: Engine = "torch",
    found: FoundImages | None = None,
    ray: RayOptions | None = None,
) -> _Task:
    codecs.check_step(options.store, options.step)
    pre = preprocessing(image_size, short_edge, resize_mode, jpeg_decode, max_pixels)
    crops = random_crops(options.crops, options.crop_scale, options.seed, options.augment)
    if crops.count and jpeg_decode == "scaled":
        raise InputError(
            f"--jpeg-decode scaled and --crops {crops.count}: crops are cut from pictures of full size; leave one out"
        )
    if found is None:
        opened = open_dataset(
            dataset, data_dir, splits=splits, val_fraction=val_fraction, seed=options.seed, columns=columns
        )
    else:
        refuse_columns(dataset, columns)
        opened = part_images(found, None, splits=splits, val_fraction=val_fraction, seed=options.seed)
    launched = launched_as()
    if ray is not None and launched.world_size > 1:
        raise InputError("--launch ray: torchrun has started several processes already; start one, and Ray the others")
    if launched.rank == 0:
        for line in describe_dataset(opened):
            logger.info("%s", line)
    if options.on_error == "stop":
        refuse_left_out_pictures(opened)
    if ray is not None:
        device = "cpu"  # here, where nothing is encoded
    encoder = load_encoder(weights, device, precision, engine=engine, local_rank=launched.local_rank)
    fitted = fit_to_cache(opened, cache)
    specs = {
        name: make_spec(
            dataset,
            name,
            split,
            opened,
            pre,
            crops if name == _CROPPED_SPLIT else NO_CROPS,
            encoder,
            options,
        )
        for name, split in fitted.items()
    }
    for spec in specs.values():
        check_claim(cache, spec)
    return _Task(opened, fitted, specs, pre, encoder, launched)


def make_spec(
    dataset: str,
    split_name: str,
    split: ImageSplit,
    opened: ImageDataset,
    pre: Preprocessing,
    crops: Crops,
    encoder: Encoder,
    options: EncodeOptions,
) -> CacheSpec:
    """What a run with these settings stores. Raises InputError for a setting outside of its bounds."""
    if len(split.classes) > MOST_CLASSES:
        raise InputError(f"{dataset} has {len(split.classes):,} classes, and a cache holds {MOST_CLASSES:,} at most")
    return spec_of_settings(
        dataset=dataset,
        split=split_name,
        columns=opened.columns,
        val_fraction=opened.val_fraction,
        items_sha256=hash_items(split.keys, split.labels, split.classes),
        image_size=pre.image_size,
        short_edge=pre.short_edge,
        resize_mode=pre.resize_mode,
        interpolation=pre.interpolation,
        jpeg_decode=pre.jpeg_decode,
        encoder=ENCODER,
        weights_sha256=encoder.weights_sha256,
        views=view_names(options.views, crops.count),
        crop_scale=crops.scale if crops.count else None,
        augment=crops.augment if crops.augment != "none" else None,
        format=options.format,
        store=options.store,
        step=None if options.store == "float16" else options.step,
        shard_size=options.shard_size,
        record_images=record_size(options.format, options.record_images),
        seed=options.seed,
    )
