"""The same samples and values in the other format: buffers are copied as they are, nothing is decoded."""

from pathlib import Path
from typing import Literal

import numpy as np

from ci2p_cache.cache import open_cache
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.manifest import NO_LABEL, Manifest, read_marker
from ci2p_cache.plan import num_shards
from ci2p_cache.reader import ViewReader
from ci2p_cache.shard import ShardContents, finish_split, is_written, write_shard
from ci2p_cache.spec import claim_folder


def convert_split(source: Path, target: Path, split: str, format: Literal["zarr", "webdataset"]) -> Manifest:
    """Writes a split of the cache `source` into the cache `target`, or goes on where a run was killed.

    Raises InputError when source and target are one folder, the source is not finished, or the target holds another
    cache; WorkError when the source is damaged.
    """
    if source.resolve() == target.resolve():
        raise InputError(f"{target} is the cache to be converted; give another folder to convert into")
    cache = open_cache(source, split)
    spec = cache.spec.model_copy(update={"format": format})
    claim_folder(target, spec)
    reader = ViewReader(cache.split_dir, cache.manifest)
    split_dir = target / split
    for shard in range(num_shards(cache.manifest.num_items, spec.shard_size)):
        if not is_written(split_dir, shard, spec):
            (split_dir / "manifest.json").unlink(missing_ok=True)
            marker = read_marker(source / split, shard)
            if marker is None:
                raise WorkError(f"{source}/{split} lacks the marker of shard {shard}; run `ci2p verify {source}`")
            begin = shard * spec.shard_size
            rows = [
                None if label == NO_LABEL else reader.buffers(begin + place)
                for place, label in enumerate(marker.labels)
            ]
            contents = ShardContents(
                marker.keys, marker.labels, rows, marker.failures, marker.value_range, marker.recorded
            )
            write_shard(split_dir, spec, shard, contents)
    manifest = finish_split(split_dir, spec, tuple(cache.classes), cache.manifest.num_items)
    assert manifest is not None
    assert np.array_equal(manifest.labels, cache.manifest.labels)
    return manifest
