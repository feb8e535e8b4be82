"""The same samples and values in another format or store, or brought over from format version 1.

Between formats alone, buffers are copied as they are.
"""

from typing import Literal

from ci2p_cache.cache import open_cache
from ci2p_cache.claim import check_claim, claim_folder
from ci2p_cache.codecs import Store
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.items import has_item_list, write_item_list
from ci2p_cache.manifest import Manifest, check_marker_in
from ci2p_cache.marker import marker_path, read_marker
from ci2p_cache.plan import num_shards
from ci2p_cache.remote_path import AnyPath
from ci2p_cache.shard import ShardContents, finish_split, reopen_split, write_shard
from ci2p_cache.shard_file import read_rows
from ci2p_cache.spec import FORMAT_VERSION, latent_difference, read_spec, record_size
from ci2p_cache.verify import find_damages
from ci2p_cache.written import hold_against_seals, written_shards


def convert_split(
    source: AnyPath,
    target: AnyPath,
    split: str,
    format: Literal["zarr", "webdataset"] | None = None,
    store: Store | None = None,
    record_images: int | None = None,
) -> Manifest:
    """Writes a split of the cache `source` into the cache `target`, or goes on where a run was killed.

    Format, store and images a record are the source's where none is given, which brings over a cache of format
    version 1; what its images held stays unknown. int and rans hold the same values, so that int to rans and back gives
    the same files.
    Raises InputError when source and target are one folder, the source is not finished, the store would change its
    values, or the target holds another cache; WorkError when the source is damaged.
    """
    if source.resolve() == target.resolve():
        raise InputError(f"{target} is the cache to be converted; give another folder to convert into")
    cache = open_cache(source, split)
    format = format or cache.spec.format
    if format == cache.spec.format and record_images is None:
        record_images = cache.spec.record_images
    spec = cache.spec.model_copy(
        update={
            "format_version": FORMAT_VERSION,
            "format": format,
            "store": store or cache.spec.store,
            "record_images": record_size(format, record_images),
        }
    )
    if latent_difference(cache.spec, spec) is not None:
        raise InputError(
            f"--store {spec.store}: {source} is stored as {cache.spec.store}, and {spec.store} holds other values; "
            f"encode the images with --store {spec.store}"
        )
    check_claim(target, spec)
    damages = find_damages(source, split)
    if damages:  # what is made of it would pass for sound
        more = f" and {len(damages) - 1} more" if len(damages) > 1 else ""
        raise WorkError(f"{source} is damaged: {damages[0]}{more}; `ci2p verify {source}` lists it all")
    split_dir = target / split
    hold_against_seals(split_dir)
    if not has_item_list(split_dir):
        write_item_list(split_dir, cache.read_items())
    claim_folder(target, spec)
    written = written_shards(split_dir, spec, cache.manifest.num_items, cache.num_classes)
    for shard in range(num_shards(cache.manifest.num_items, spec.shard_size)):
        if shard not in written:
            reopen_split(split_dir)
            marker = read_marker(source / split, shard)
            if marker is None:
                raise WorkError(f"{source}/{split} lacks the marker of shard {shard}; run `ci2p verify {source}`")
            check_marker_in(marker, cache.manifest, marker_path(source / split, shard))
            contents = ShardContents(
                keys=marker.keys,
                labels=marker.labels,
                rows=read_rows(source / split, cache.spec, marker),
                failures=marker.failures,
                value_range=marker.value_range,
                recorded=marker.recorded,
                escapes=marker.escapes or [],
                image_bytes=marker.image_bytes,
                image_hashes=marker.image_hashes,
                modified_ns=marker.modified_ns,
            )
            write_shard(split_dir, spec, shard, contents)
    manifest = finish_split(target, spec, cache.manifest.left_out)
    assert manifest is not None
    assert manifest.labels == cache.manifest.labels
    return manifest


def is_outdated(split_dir: AnyPath) -> bool:
    """Whether a split is of an older format version than what is written today."""
    return read_spec(split_dir / "spec.json").format_version < FORMAT_VERSION
