"""How large a cache will be and how long encoding takes, from a few images that are really encoded."""

import time
from dataclasses import dataclass

import numpy as np

from ci2p_cache.printable import counted
from ci2p_cache.spec import CacheSpec
from pipeline.encode.crops import crops_of
from pipeline.encode.datasets.split import ImageSplit
from pipeline.encode.decoding import decode_batches
from pipeline.encode.encoder import Encoder
from pipeline.encode.preprocess import Preprocessing
from pipeline.encode.rows import pack_row
from pipeline.encode.shard_writer import EncodeOptions
from pipeline.encode.stored_batch import StoredBatch

_IMAGES = 16


@dataclass(frozen=True)
class Estimate:
    """For one split and one process."""

    num_images: int
    num_views: int
    num_bytes: int  # of the shards
    minutes: float
    sampled: int  # images that this was estimated from
    num_failed: int  # of them

    def __str__(self) -> str:
        failed = f", {self.num_failed} of them failed" if self.num_failed else ""
        return (
            f"{counted(self.num_views, 'view')}, about {_bytes(self.num_bytes)} and {_time(60 * self.minutes)} by one "
            f"process (estimated from {counted(self.sampled, 'image')}{failed})"
        )


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def _time(seconds: float) -> str:
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.2g} s"


def estimate(
    split: ImageSplit, spec: CacheSpec, pre: Preprocessing, encoder: Encoder, options: EncodeOptions
) -> Estimate:
    """Decodes, encodes and packs sixteen images spread over a split; writes nothing.

    Worker processes decode while the encoder encodes, so the slower of the two decides.
    """
    num_images, num_views = len(split.keys), len(spec.views)
    items = np.unique(np.linspace(0, num_images - 1, min(_IMAGES, num_images)).round().astype(np.int64)).tolist()
    begin = time.monotonic()
    (batch,) = decode_batches(split, pre, [items], workers=0, pin=False, crops=crops_of(spec))
    decoding_s = (time.monotonic() - begin) / len(items) / max(1, options.workers)
    if not batch.indices:
        return Estimate(num_images, 0, 0, 0.0, len(items), len(batch.failures))
    StoredBatch(encoder, batch.pixels[:, :1], spec).image(0)  # what happens once is not counted
    begin = time.monotonic()
    stored = StoredBatch(encoder, batch.pixels, spec)
    rows = [pack_row(stored, place, split.keys[item], spec) for place, item in enumerate(batch.indices)]
    encoding_s = (time.monotonic() - begin) / len(batch.indices)
    num_bytes = sum(len(buffer) for row in rows for buffer in row.buffers)
    expected = num_images * len(batch.indices) / len(items)
    return Estimate(
        num_images,
        round(expected * num_views),
        round(expected * num_bytes / len(batch.indices)),
        num_images * max(decoding_s, encoding_s) / 60,
        len(items),
        len(batch.failures),
    )
