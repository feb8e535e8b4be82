"""One split's shards: items -> pixels -> latents -> stored buffers -> files and markers, resumable shard by shard.

Legend: B images, R renderings (plain and crops), V views (those and their mirror images), S image size, C = 192,
H = W = S / 16.
"""

import importlib.metadata
import platform
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ci2p_cache import codecs, plan
from ci2p_cache.errors import WorkError
from ci2p_cache.escapes import find_escapes
from ci2p_cache.manifest import NO_LABEL, Failure, Manifest
from ci2p_cache.shard import ShardContents, finish_split, is_written, write_shard
from ci2p_cache.spec import CacheSpec, claim_folder
from ci2p_cache.views import Flips, whole_views
from pipeline.encode.crops import crops_of
from pipeline.encode.datasets.split import ImageSplit
from pipeline.encode.decoding import decode_batches
from pipeline.encode.encoder import Encoder
from pipeline.encode.preprocess import Preprocessing
from pipeline.progress import progress

OnError = Literal["stop", "skip"]
_PACKING_THREADS = 4


@dataclass(frozen=True)
class EncodeOptions:
    """How a cache is written. The last three decide how fast and how strictly; the others what is stored."""

    format: Literal["zarr", "webdataset"] = "zarr"
    store: codecs.Store = "int"
    step: float = 1.0
    views: Flips = "flip"
    crops: int = 0  # of each training image
    crop_scale: tuple[float, float] | None = None  # shares of the area; None: `crops.DEFAULT_SCALE`
    shard_size: int = 1024  # images
    seed: int = 0
    batch_size: int = 32  # images
    workers: int = 1  # decoding processes
    on_error: OnError = "stop"


@dataclass(frozen=True)
class SplitReport:
    """What one call did for one split; `manifest` is None while other ranks have shards to write."""

    split: str
    manifest: Manifest | None
    num_encoded: int  # images encoded by this call
    seconds: float

    @property
    def images_per_s(self) -> float:
        return self.num_encoded / self.seconds if self.num_encoded else 0.0


@dataclass(frozen=True)
class _Row:
    """One stored image: its views' buffers, its escapes and the range of its dequantised latents."""

    buffers: tuple[bytes, ...]
    escapes: list[tuple[int, int, int]]  # view, index, integer
    low: float
    high: float


def encode_split(
    split: ImageSplit,
    spec: CacheSpec,
    pre: Preprocessing,
    encoder: Encoder,
    cache: Path,
    options: EncodeOptions,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> SplitReport:
    """Writes the shards of a split that are not there yet, then its manifest once all are (promises C2, C3 and C4).

    Each of `world_size` processes writes its own shards; whichever sees the last marker writes the manifest. Raises
    InputError when the folder holds another spec, and WorkError for an image that cannot be used under
    `--on-error stop`; finished shards stay.
    """
    claim_folder(cache, spec)
    split_dir = cache / spec.split
    positions_to_item = plan.plan_order(split.keys, spec.seed)
    num_items = len(positions_to_item)
    todo = [
        shard
        for shard in plan.shards_of_rank(num_items, spec.shard_size, rank, world_size)
        if not is_written(split_dir, shard, spec)
    ]
    begin = time.monotonic()
    shards = [positions_to_item[plan.shard_positions(shard, num_items, spec.shard_size)] for shard in todo]
    num_encoded = sum(map(len, shards))
    if todo:
        (split_dir / "manifest.json").unlink(missing_ok=True)
        _write_shards(split, spec, pre, encoder, split_dir, options, dict(zip(todo, shards, strict=True)), num_items)
    manifest = finish_split(split_dir, spec, split.classes, num_items)
    return SplitReport(spec.split, manifest, num_encoded, time.monotonic() - begin)


def _write_shards(
    split: ImageSplit,
    spec: CacheSpec,
    pre: Preprocessing,
    encoder: Encoder,
    split_dir: Path,
    options: EncodeOptions,
    shards: dict[int, NDArray[np.int64]],
    num_items: int,
) -> None:
    """Three things overlap: worker processes decode, the device encodes, threads compress and write."""
    batches = [
        (shard, items[start : start + options.batch_size].tolist())
        for shard, items in shards.items()
        for start in range(0, len(items), options.batch_size)
    ]
    decoded = decode_batches(
        split,
        pre,
        [items for _, items in batches],
        workers=options.workers,
        pin=encoder.device.type == "cuda",
        crops=crops_of(spec),
    )
    recorded = _recorded(encoder)
    done_before = num_items - sum(map(len, shards.values()))
    with (
        ThreadPoolExecutor(_PACKING_THREADS, thread_name_prefix="ci2p-pack") as packers,
        ThreadPoolExecutor(1, thread_name_prefix="ci2p-write") as writer,
        progress(f"encode {spec.split}", num_items, "images", start=done_before) as advance,
    ):
        writing: Future[None] | None = None
        rows: dict[int, Future[_Row]] = {}
        failures: list[Failure] = []
        for number, (batch, (shard, items)) in enumerate(zip(decoded, batches, strict=True)):
            if batch.failures and options.on_error == "stop":
                raise WorkError(_stopped_at(batch.failures[0], spec, split_dir))
            failures += batch.failures
            if batch.indices:
                latents_BVCHW = _encode(encoder, batch.pixels, spec.views)
                for item, latents_VCHW in zip(batch.indices, latents_BVCHW, strict=True):
                    rows[item] = packers.submit(_pack_row, latents_VCHW, split.keys[item], spec)
            advance(len(items), f"{len(failures)} failed" if failures else "")
            if number + 1 == len(batches) or batches[number + 1][0] != shard:
                if writing is not None:
                    writing.result()
                writing = writer.submit(
                    _write_shard, split, spec, split_dir, shard, shards[shard].tolist(), rows, failures, recorded
                )
                rows, failures = {}, []
        if writing is not None:
            writing.result()


def _encode(encoder: Encoder, pixels_RB3SS: Tensor, views: tuple[str, ...]) -> NDArray[np.float32]:
    """Latents [B, V, C, H, W], a rendering with its mirror image at a time: crops take no more memory on the device."""
    flips = whole_views(views)
    latents = [encoder.views(pixels_B3SS, flips).cpu() for pixels_B3SS in pixels_RB3SS]
    latents_BVCHW: NDArray[np.float32] = torch.cat(latents, dim=1).numpy()
    return latents_BVCHW


def _stopped_at(failure: Failure, spec: CacheSpec, split_dir: Path) -> str:
    return (
        f"{spec.split} image {failure.key}: {failure.reason}; mend or remove it, or use --on-error skip to leave such "
        f"images out and list them in the manifest (finished shards in {split_dir} are kept)"
    )


def _pack_row(latents_VCHW: NDArray[np.float32], key: str, spec: CacheSpec) -> _Row:
    try:
        kept = codecs.quantise(latents_VCHW, spec.store, spec.step)
    except WorkError as error:
        raise WorkError(f"{spec.split} image {key}: {error}") from error
    values = codecs.dequantise(kept, spec.store, spec.step)
    escapes: list[tuple[int, int, int]] = []
    if spec.store != "float16":
        integers = kept.astype(np.int32, copy=False)
        kept, escapes = codecs.zigzag(integers), find_escapes(integers)
    buffers = tuple(codecs.pack(view, spec.store) for view in kept)
    return _Row(buffers, escapes, float(values.min()), float(values.max()))


def _write_shard(
    split: ImageSplit,
    spec: CacheSpec,
    split_dir: Path,
    shard: int,
    items: list[int],
    pending: dict[int, "Future[_Row]"],
    failures: list[Failure],
    recorded: dict[str, Any],
) -> None:
    rows = {item: future.result() for item, future in pending.items()}
    contents = ShardContents(
        keys=[split.keys[item] for item in items],
        labels=[int(split.labels[item]) if item in rows else NO_LABEL for item in items],
        rows=[rows[item].buffers if item in rows else None for item in items],
        failures=sorted(failures, key=lambda failure: failure.key),
        value_range=(
            min((row.low for row in rows.values()), default=0.0),
            max((row.high for row in rows.values()), default=0.0),
        ),
        recorded=recorded,
        escapes=[(place, *escape) for place, item in enumerate(items) if item in rows for escape in rows[item].escapes],
    )
    write_shard(split_dir, spec, shard, contents)


def _recorded(encoder: Encoder) -> dict[str, Any]:
    names = ["ci2p", "torch", "compressai", "numpy", "pillow", "numcodecs"]
    if encoder.engine == "openvino":
        names.append("openvino")
    return {
        "device": encoder.device.type,
        "precision": encoder.precision,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }
