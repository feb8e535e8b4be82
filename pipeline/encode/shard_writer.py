"""Shards of a split: items -> pixels -> latents -> stored buffers -> files and markers, resumable shard by shard.

Legend: B images, V views, C = 192, H = W = S / 16 of the image size S.
"""

import importlib.metadata
import platform
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Literal

from ci2p_cache import codecs
from ci2p_cache.errors import WorkError
from ci2p_cache.items import ImageContent
from ci2p_cache.marker import NO_LABEL, Failure, Marker, marker_path, read_marker
from ci2p_cache.refused import note_refused, read_refused
from ci2p_cache.remote_path import AnyPath
from ci2p_cache.shard import ShardContents, reopen_split, write_shard
from ci2p_cache.shard_file import read_rows
from ci2p_cache.spec import CacheSpec
from ci2p_cache.views import Flips
from ci2p_cache.written import is_written
from pipeline.encode.augmentation import Augment
from pipeline.encode.crops import crops_of
from pipeline.encode.datasets.split import ImageSplit
from pipeline.encode.decoding import OnError, decode_batches
from pipeline.encode.encoder import Encoder
from pipeline.encode.kept_items import GONE
from pipeline.encode.preprocess import Preprocessing
from pipeline.encode.resume import ShardWork, WorkBatches
from pipeline.encode.rows import Row, pack_row, unpack_row
from pipeline.encode.stored_batch import StoredBatch
from pipeline.running import signals
from pipeline.running.cores import cores_of_process

_BATCHES_AT_ONCE = 3  # the device has one, another waits for it, a third is packed
_MOST_PACKERS = 16


@dataclass(frozen=True)
class EncodeOptions:
    """How a cache is written. The last three decide how fast and how strictly; the others what is stored."""

    format: Literal["zarr", "webdataset"] = "zarr"
    store: codecs.Store = "int"
    step: float = 1.0
    views: Flips = "flip"
    crops: int = 0  # of each training image
    crop_scale: tuple[float, float] | None = None  # shares of the area; None: `crops.DEFAULT_SCALE`
    augment: Augment = "none"  # of the crops
    shard_size: int = 512  # images: a kill loses up to as many, a minute's work of two cores
    record_images: int | None = None  # of a tar; None: `spec.RECORD_IMAGES`
    seed: int = 0
    batch_size: int = 32  # images
    workers: int = 1  # decoding processes
    on_error: OnError = "stop"


@dataclass(frozen=True)
class SplitJob:
    """What whoever writes shards of a split has to know; picklable."""

    split: ImageSplit
    spec: CacheSpec
    pre: Preprocessing
    split_dir: AnyPath
    options: EncodeOptions

    @property
    def counts(self) -> tuple[int, int]:
        """Of the split's items and classes."""
        return len(self.split.keys), len(self.split.classes)


@dataclass
class _Encoded:
    """What a shard's images have become so far, by item."""

    rows: dict[int, "Future[Row]"] = field(default_factory=dict)
    contents: dict[int, ImageContent] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)


def write_shards(encoder: Encoder, job: SplitJob, work: list[ShardWork], count: Callable[[int, int], None]) -> None:
    """Three things overlap: worker processes decode, the device encodes, threads compress and write.

    `count` is told of every batch how many images it had, and how many have failed so far. Raises WorkError for an
    image that cannot be used under `--on-error stop`.
    """
    split, spec, split_dir, options = job.split, job.spec, job.split_dir, job.options
    batches = WorkBatches(work, options.batch_size)
    decoded = decode_batches(
        split,
        job.pre,
        batches,
        workers=options.workers,
        pin=encoder.device.type == "cuda",
        crops=crops_of(spec),
        largest=min(options.batch_size, max(each.num_todo for each in work)),
    )
    recorded = _recorded(encoder)
    known_bad = {*read_refused(split_dir), *(failure.key for each in work for failure in each.failed_before)}
    with (
        ThreadPoolExecutor(packing_threads(), thread_name_prefix="ci2p-pack") as packers,
        ThreadPoolExecutor(1, thread_name_prefix="ci2p-write") as writer,
        signals.finishing(),
    ):
        writing: Future[None] | None = None
        packing: deque[list[Future[Row]]] = deque()  # of the batches that came last
        done = _Encoded()
        num_failed = 0
        for number, batch in enumerate(decoded):
            each, items = batches.work_of(number), batches[number]
            refused = [failure for failure in batch.failures if not _was_removed(failure, known_bad)]
            if refused and options.on_error == "stop":
                note_refused(split_dir, refused)
                raise WorkError(_stopped_at(refused[0], spec, split_dir))
            num_failed += len(batch.failures)
            done.failures += batch.failures
            done.contents |= batch.contents
            if batch.indices:
                if len(packing) == _BATCHES_AT_ONCE:
                    wait(packing.popleft())
                stored = StoredBatch(encoder, batch.pixels, spec)
                rows = {
                    item: packers.submit(pack_row, stored, place, split.keys[item], spec)
                    for place, item in enumerate(batch.indices)
                }
                packing.append([*rows.values()])
                done.rows |= rows
            count(len(items), num_failed)
            if number + 1 == len(batches) or batches.work_of(number + 1) is not each:
                if writing is not None:
                    writing.result()
                writing = writer.submit(_write_shard, split, spec, split_dir, each, done, recorded)
                done = _Encoded()
            signals.end_if_told()  # a shard that is being written is finished first
        if writing is not None:
            writing.result()


def packing_threads() -> int:
    """One a core of this process, for compressing takes all of it; the bytes do not depend on it."""
    return min(_MOST_PACKERS, cores_of_process())


def _was_removed(failure: Failure, known_bad: set[str]) -> bool:
    """Whether an image that could not be used has been taken away since, as `_stopped_at` advises."""
    return GONE in failure.reason and failure.key in known_bad


def _stopped_at(failure: Failure, spec: CacheSpec, split_dir: AnyPath) -> str:
    advice = "put it back" if GONE in failure.reason else "mend or remove it"
    return (
        f"{spec.split} image {failure.key}: {failure.reason}; {advice} and run the same command again, or use "
        f"--on-error skip to leave such images out and list them as failed (finished shards in {split_dir} are kept)"
    )


def _write_shard(
    split: ImageSplit, spec: CacheSpec, split_dir: AnyPath, work: ShardWork, done: _Encoded, recorded: dict[str, Any]
) -> None:
    """One shard of what was encoded just now and, where it was there before, of what is kept of it."""
    rows = {item: future.result() for item, future in done.rows.items()}
    contents, failures = done.contents, done.failures
    if work.marker is None and is_written(split_dir, work.shard, spec, len(split.keys), len(split.classes)):
        return  # another process has meanwhile written it, of the same images
    if work.marker is not None:
        if not rows and {*work.marker.failures} == {*failures}:
            return  # what had failed has failed again
        try:
            kept, kept_contents = _kept_rows(split_dir, spec, work, work.marker)
        except WorkError:
            if read_marker(split_dir, work.shard) == work.marker:
                raise
            return  # another process has meanwhile begun to write this shard, of the same images
        rows, contents = kept | rows, kept_contents | contents
        if work.marker.recorded != recorded:
            recorded = recorded | {"before": work.marker.recorded}
    reopen_split(split_dir)
    marker_path(split_dir, work.shard).unlink(missing_ok=True)
    write_shard(split_dir, spec, work.shard, _shard_contents(split, work.items, rows, contents, failures, recorded))


def _shard_contents(
    split: ImageSplit,
    items: list[int],
    rows: dict[int, Row],
    contents: dict[int, ImageContent],
    failures: list[Failure],
    recorded: dict[str, Any],
) -> ShardContents:
    known = [contents.get(item, ImageContent()) for item in items]
    return ShardContents(
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
        image_bytes=[each.num_bytes for each in known],
        image_hashes=[each.hash for each in known],
        modified_ns=[each.modified_ns for each in known],
    )


def _kept_rows(
    split_dir: AnyPath, spec: CacheSpec, work: ShardWork, marker: Marker
) -> tuple[dict[int, Row], dict[int, ImageContent]]:
    """What a shard holds of the images that are not encoded again. Raises WorkError when the shard is damaged."""
    todo = set(work.todo)
    escapes: dict[int, list[tuple[int, int, int]]] = {}
    for place, view, index, integer in marker.escapes or ():
        escapes.setdefault(place, []).append((view, index, integer))
    rows: dict[int, Row] = {}
    contents: dict[int, ImageContent] = {}
    for place, (item, buffers) in enumerate(zip(work.items, read_rows(split_dir, spec, marker), strict=True)):
        if item in todo:
            continue
        if buffers is not None:
            rows[item] = unpack_row(tuple(buffers), escapes.get(place, []), spec)
        if marker.image_bytes and marker.image_hashes and marker.modified_ns:
            contents[item] = ImageContent(
                marker.image_bytes[place], marker.image_hashes[place], marker.modified_ns[place]
            )
    return rows, contents


def _recorded(encoder: Encoder) -> dict[str, Any]:
    names = ["ci2p", "torch", "numpy", "pillow", "numcodecs"]
    if encoder.engine == "openvino":
        names.append("openvino")
    return {
        "device": encoder.device.type,
        "precision": encoder.precision,
        "python": platform.python_version(),
        "versions": {name: _installed_version(name) for name in names},
    }


def _installed_version(name: str) -> str:
    """For ci2p itself need not be installed: it also runs from where its sources lie."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
