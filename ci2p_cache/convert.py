"""The same samples and values in another format or store; between formats alone, buffers are copied as they are."""

from pathlib import Path
from typing import Literal

import numpy as np

from ci2p_cache.cache import open_cache
from ci2p_cache.codecs import Store
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.manifest import NO_LABEL, Manifest, read_marker
from ci2p_cache.plan import num_shards
from ci2p_cache.reader import ViewReader
from ci2p_cache.shard import ShardContents, finish_split, is_written, write_shard
from ci2p_cache.spec import RECORD_IMAGES, claim_folder, latent_difference


def convert_split(
    source: Path,
    target: Path,
    split: str,
    format: Literal["zarr", "webdataset"] | None = None,
    store: Store | None = None,
) -> Manifest:
    """Writes a split of the cache `source` into the cache `target`, or goes on where a run was killed.

    Format and store are the source's where none is given; int and rans hold the same values, so that int to rans and
    back gives the same files. Raises InputError when source and target are one folder, the source is not finished, the
    store would change its values, or the target holds another cache; WorkError when the source is damaged.
    """
    if source.resolve() == target.resolve():
        raise InputError(f"{target} is the cache to be converted; give another folder to convert into")
    cache = open_cache(source, split)
    format = format or cache.spec.format
    spec = cache.spec.model_copy(
        update={"format": format, "store": store or cache.spec.store, "record_images": RECORD_IMAGES[format]}
    )
    if latent_difference(cache.spec, spec) is not None:
        raise InputError(
            f"--store {spec.store}: {source} is stored as {cache.spec.store}, and {spec.store} holds other values; "
            f"encode the images with --store {spec.store}"
        )
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
                keys=marker.keys,
                labels=marker.labels,
                rows=rows,
                failures=marker.failures,
                value_range=marker.value_range,
                recorded=marker.recorded,
                escapes=marker.escapes or [],
            )
            write_shard(split_dir, spec, shard, contents)
    manifest = finish_split(split_dir, spec, tuple(cache.classes), cache.manifest.num_items)
    assert manifest is not None
    assert np.array_equal(manifest.labels, cache.manifest.labels)
    return manifest
