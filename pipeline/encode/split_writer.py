"""One split of a cache: what is missing of it is found, written here or elsewhere, and the split finished."""

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.claim import claim_folder
from ci2p_cache.left_out import LeftOut
from ci2p_cache.manifest import Manifest
from ci2p_cache.remote_path import AnyPath
from ci2p_cache.shard import finish_split
from ci2p_cache.spec import CacheSpec
from ci2p_cache.written import hold_against_seals
from pipeline.encode.datasets.split import ImageSplit
from pipeline.encode.encoder import Encoder
from pipeline.encode.preprocess import Preprocessing
from pipeline.encode.resume import ShardWork, find_work
from pipeline.encode.shard_writer import EncodeOptions, SplitJob, write_shards
from pipeline.running.progress import Advance, progress


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


class WriteShards(Protocol):
    """Writes shards of a split, in any order and anywhere, and returns once they are there."""

    def __call__(self, job: SplitJob, work: list[ShardWork], advance: Advance) -> None: ...


def encode_split(
    split: ImageSplit,
    spec: CacheSpec,
    pre: Preprocessing,
    write: WriteShards,
    cache: AnyPath,
    options: EncodeOptions,
    *,
    left_out: tuple[LeftOut, ...] = (),
    order: NDArray[np.int64] | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> SplitReport:
    """Writes what is missing of a split, then its manifest once all shards are there (promises C2, C3 and C4).

    The item list must be in the cache. `write` writes the shards, here (`writing_here`) or elsewhere. Each of
    `world_size` processes writes its own shards; whichever sees the last marker writes the manifest. Raises InputError
    when the folder holds another spec, and WorkError for an image that cannot be used under `--on-error stop`, also one
    that failed in an earlier run; finished shards stay.
    """
    claim_folder(cache, spec)
    split_dir = cache / spec.split
    begin = time.monotonic()
    hold_against_seals(split_dir)
    work = find_work(split, spec, split_dir, order=order, rank=rank, world_size=world_size)
    if work:
        num_items = len(split.keys)
        done_before = num_items - sum(each.num_todo for each in work)
        with progress(f"encode {spec.split}", num_items, "images", start=done_before) as advance:
            write(SplitJob(split, spec, pre, split_dir, options), work, advance)
    manifest = finish_split(cache, spec, left_out)
    return SplitReport(spec.split, manifest, sum(each.num_todo for each in work), time.monotonic() - begin)


def writing_here(encoder: Encoder) -> WriteShards:
    """This process writes all that it is given."""

    def write(job: SplitJob, work: list[ShardWork], advance: Advance) -> None:
        write_shards(encoder, job, work, lambda done, failed: advance(done, f"{failed} failed" if failed else ""))

    return write
