"""What is left to do of a split: shards that are not there, images that failed, images that have changed since.

marker missing                      -> the whole shard
an image failed                     -> that image again, the others are taken over as they are stored
an image file has another content   -> that image again
"""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ci2p_cache import plan
from ci2p_cache.items import ImageContent
from ci2p_cache.marker import NO_LABEL, Failure, Marker, read_marker, write_marker
from ci2p_cache.remote_path import AnyPath
from ci2p_cache.shard import reopen_split
from ci2p_cache.spec import CacheSpec
from ci2p_cache.written import written_shards
from pipeline.encode.batches import ComputedBatches
from pipeline.encode.datasets.split import ImageSplit
from pipeline.encode.decoding import read_item
from pipeline.encode.preprocess import BadImage
from pipeline.running.progress import progress

logger = logging.getLogger("ci2p")

_LOOKING_THREADS = 8  # a look at a file on a shared disk is a wait
_QUIET_SHARDS = 100  # below it, a look takes no time that one would ask about
_SHOWN = 3


@dataclass(frozen=True)
class ShardWork:
    """One shard: the items that it is planned to hold, in order, and which of them are to be encoded."""

    shard: int
    planned: NDArray[np.int64]  # a part of the plan, which all share
    some: list[int] | None = None  # which of them are to be encoded; None: all
    marker: Marker | None = None  # of the shard that is there, whose other images are kept

    @property
    def items(self) -> list[int]:
        items: list[int] = self.planned.tolist()
        return items

    @property
    def todo(self) -> list[int]:
        return self.items if self.some is None else self.some

    @property
    def num_todo(self) -> int:
        return len(self.planned if self.some is None else self.some)

    @property
    def failed_before(self) -> list[Failure]:
        return self.marker.failures if self.marker is not None else []


class WorkBatches(ComputedBatches):
    """What is to be encoded of some shards in batches, of which none goes across two; made as they are asked for."""

    def __init__(self, work: Sequence[ShardWork], batch_size: int):
        self._work = work
        self._batch_size = batch_size
        counts = [-(-each.num_todo // batch_size) for each in work]
        self._ends = np.cumsum(counts, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def work_of(self, number: int) -> ShardWork:
        """The shard that a batch is of."""
        return self._work[int(np.searchsorted(self._ends, number, "right"))]

    def items_of(self, number: int) -> list[int]:
        shard = int(np.searchsorted(self._ends, number, "right"))
        begin = (number - (int(self._ends[shard - 1]) if shard else 0)) * self._batch_size
        end = begin + self._batch_size
        work = self._work[shard]
        return replace(work, planned=work.planned[begin:end]).items if work.some is None else work.some[begin:end]


@dataclass(frozen=True)
class _Looked:
    """What was seen of a shard that is there."""

    failed: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    touched: dict[int, int] = field(default_factory=dict)  # place -> when it was modified, its content as before


def find_work(
    split: ImageSplit,
    spec: CacheSpec,
    split_dir: AnyPath,
    *,
    order: NDArray[np.int64] | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> list[ShardWork]:
    """The shards of one of `world_size` processes that need work, in order; says what has changed since.

    `order` is the split's plan, where that is known already.

    Looks at size and time of every image of a finished shard, and reads those whose time differs.
    """
    order = plan.plan_order(split.keys, spec.seed) if order is None else order
    shards = plan.shards_of_rank(len(order), spec.shard_size, rank, world_size)
    items_of = partial(_items_of, order, spec)
    written = written_shards(split_dir, spec, len(order), len(split.classes))
    there = [shard for shard in shards if shard in written]
    work = {shard: ShardWork(shard, items_of(shard)) for shard in set(shards) - set(there)}
    changed, gone = [], []
    for shard, marker, looked in _look(split, split_dir, there, items_of):
        if marker is None:
            work[shard] = ShardWork(shard, items_of(shard))
            continue
        if looked.touched:
            marker = _restamp(split_dir, marker, looked.touched)
        if looked.failed or looked.changed:
            todo = sorted([*looked.failed, *looked.changed])
            work[shard] = ShardWork(shard, items_of(shard), todo, marker)
        changed += looked.changed
        gone += looked.gone
    _say(split, spec.split, changed, "have changed since they were encoded", "they are encoded anew")
    _say(split, spec.split, gone, "are gone since they were encoded", "their latents are kept")
    return [work[shard] for shard in sorted(work)]


def _items_of(order: NDArray[np.int64], spec: CacheSpec, shard: int) -> NDArray[np.int64]:
    positions = plan.shard_positions(shard, len(order), spec.shard_size)
    return order[positions.start : positions.stop]


def _look(
    split: ImageSplit, split_dir: AnyPath, shards: Sequence[int], items_of: "partial[NDArray[np.int64]]"
) -> Iterator[tuple[int, Marker | None, _Looked]]:
    """Yields (shard, marker, what was seen) of the shards that are there; no marker where another process has just
    begun to write a shard anew."""

    def look(shard: int) -> tuple[int, Marker | None, _Looked]:
        marker = read_marker(split_dir, shard)
        if marker is None:
            return shard, None, _Looked()
        return shard, marker, _look_at_shard(split, marker, items_of(shard).tolist())

    if not shards:
        return
    with (
        ThreadPoolExecutor(_LOOKING_THREADS, thread_name_prefix="ci2p-look") as threads,
        progress(f"check {split_dir.name}", len(shards), "shards", quiet=len(shards) < _QUIET_SHARDS) as advance,
    ):
        for found in threads.map(look, shards):
            advance(1)
            yield found


def _look_at_shard(split: ImageSplit, marker: Marker, items: list[int]) -> _Looked:
    looked = _Looked()
    for place, (item, label) in enumerate(zip(items, marker.labels, strict=True)):
        if label == NO_LABEL:
            looked.failed.append(item)
        elif marker.image_bytes and marker.image_hashes and marker.modified_ns:
            known = ImageContent(marker.image_bytes[place], marker.image_hashes[place], marker.modified_ns[place])
            if not known.hash:
                continue
            try:
                now = _look_at_image(split, item, known)
            except (OSError, BadImage):
                looked.gone.append(item)
                continue
            if now.hash != known.hash:
                looked.changed.append(item)
            elif now != known:
                looked.touched[place] = now.modified_ns
    return looked


def _look_at_image(split: ImageSplit, item: int, known: ImageContent) -> ImageContent:
    """What an image holds now, as far as it must be read to know that; raises OSError or BadImage when it is gone."""
    stamp = split.stamp(item)
    if stamp.num_bytes not in (-1, known.num_bytes):
        return ImageContent(stamp.num_bytes, "another", stamp.modified_ns)
    if stamp.modified_ns in (-1, known.modified_ns):
        return known
    _, content = read_item(split, item)
    return content


def _restamp(split_dir: AnyPath, marker: Marker, touched: dict[int, int]) -> Marker:
    """The marker with the times of files that were touched and hold what they held: they are read once, not always."""
    times = list(marker.modified_ns or ())
    for place, modified_ns in touched.items():
        times[place] = modified_ns
    marker = marker.model_copy(update={"modified_ns": times})
    reopen_split(split_dir)
    write_marker(split_dir, marker)
    return marker


def _say(split: ImageSplit, name: str, items: Sequence[int], what: str, then: str) -> None:
    if items:
        shown = ", ".join(split.keys[item] for item in items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")
        logger.warning("%s: images that %s: %d (%s); %s", name, what, len(items), shown, then)
