"""Which images can be decoded: every one is, once, for `--on-error skip`."""

import logging

import numpy as np

from ci2p_cache.marker import Failure
from pipeline.encode.datasets import ImageSplit
from pipeline.encode.datasets.split import SourceSplit
from pipeline.encode.decoding import decode_batches
from pipeline.encode.preprocess import Preprocessing
from pipeline.running.progress import progress

logger = logging.getLogger("ci2p")

_BATCH = 64


def without_failures(
    splits: dict[str, ImageSplit], pre: Preprocessing, workers: int
) -> tuple[dict[str, ImageSplit], tuple[Failure, ...]]:
    """The splits without the images that cannot be decoded, each of which is named."""
    sound: dict[str, ImageSplit] = {}
    failures: list[Failure] = []
    for name, split in splits.items():
        items = range(len(split.keys))
        batches = [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]
        kept: list[int] = []
        with progress(f"check {name}", len(items), "images") as advance:
            for batch in decode_batches(split, pre, batches, workers=workers, pin=False):
                kept += batch.indices
                failures += batch.failures
                advance(len(batch.indices) + len(batch.failures))
        assert isinstance(split, SourceSplit)
        sound[name] = split.subset(np.array(kept, dtype=np.int64))
    for failure in failures:
        logger.warning("left out: %s: %s", failure.key, failure.reason)
    return sound, tuple(failures)
