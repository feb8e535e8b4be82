"""A shard from its views' buffers: file, then marker; and a split's manifest once every marker is there.

Both formats are written here and nowhere else, by stage one and by `convert` alike (promises C2 and C5).
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ci2p_cache import rans, tar_store, zarr_store
from ci2p_cache.arrays import Parts, map_file
from ci2p_cache.checksums import PackedShard
from ci2p_cache.duplicates import find_duplicates, splits_after
from ci2p_cache.errors import WorkError
from ci2p_cache.escapes import Escape
from ci2p_cache.items import (
    LIST_FILES,
    Contents,
    ItemList,
    contents_files,
    has_contents,
    hash_contents,
    hashes_of,
    read_contents,
    read_item_list,
    unknown_contents,
)
from ci2p_cache.left_out import LeftOut
from ci2p_cache.manifest import (
    Manifest,
    dump_manifest,
    make_manifest,
    read_manifest,
    read_seals,
    table_files,
    write_manifest,
)
from ci2p_cache.marker import (
    NO_LABEL,
    Failure,
    Marker,
    ShardRecord,
    check_marker_for,
    hash_bytes,
    hash_escapes,
    marker_path,
    parse_marker,
    write_marker,
)
from ci2p_cache.plan import num_shards, shard_positions
from ci2p_cache.publish import publish, remove_leftovers, sweep_tree
from ci2p_cache.refused import forget_refused
from ci2p_cache.remote_path import AnyPath, each_of, read_whole
from ci2p_cache.seals import FileSeal, find_damage, seal_of
from ci2p_cache.spec import SPEC, CacheSpec, dump_spec
from ci2p_cache.written import marked_shards

logger = logging.getLogger("ci2p")


@dataclass(frozen=True)
class ShardContents:
    """What one shard holds; the lists have an entry per planned position, in order."""

    keys: list[str]
    labels: list[int]  # NO_LABEL where the image failed
    rows: Sequence[Sequence[bytes] | None]  # the views' buffers of `codecs.pack`; None where the image failed
    failures: list[Failure]
    value_range: tuple[float, float]  # of the dequantised latents
    recorded: dict[str, Any]
    escapes: list[Escape] = field(default_factory=list)
    image_bytes: list[int] | None = None  # as in the marker
    image_hashes: list[str] | None = None
    modified_ns: list[int] | None = None


def write_shard(split_dir: AnyPath, spec: CacheSpec, shard: int, contents: ShardContents) -> None:
    """The shard's file, then its marker: both published whole, in this order. Raises OSError when the disk refuses."""
    assert all((label == NO_LABEL) == (row is None) for label, row in zip(contents.labels, contents.rows, strict=True))
    rows, tables = contents.rows, b""
    if spec.store == "rans":
        rows, tables = rans.code_shard(rows, spec.latent_shape)
    packed = PackedShard(contents.keys, contents.labels, rows, tables)
    offsets = sizes = None
    if spec.format == "zarr":
        file, data = zarr_store.shard_file(shard), zarr_store.shard_bytes(packed, spec)
    else:
        file = tar_store.shard_file(shard)
        data, offsets, sizes = tar_store.shard_bytes(packed, spec, shard)
    remove_leftovers(split_dir / file)
    publish(split_dir / file, data)
    record = ShardRecord(
        file=file,
        num_samples=sum(label != NO_LABEL for label in contents.labels),
        bytes=len(data),
        sha256=hash_bytes(data),
        id=packed.id.hex(),
        num_escapes=len(contents.escapes),
        escapes_sha256=hash_escapes(contents.escapes) if contents.escapes else None,
    )
    marker = Marker(
        spec_id=spec.spec_id,
        shard=shard,
        record=record,
        keys=contents.keys,
        labels=contents.labels,
        failures=contents.failures,
        value_range=contents.value_range,
        recorded=contents.recorded,
        view_offsets=offsets,
        view_bytes=sizes,
        view_crc32c=None if sizes is None else packed.checksums,
        escapes=contents.escapes or None,
        image_bytes=contents.image_bytes,
        image_hashes=contents.image_hashes,
        modified_ns=contents.modified_ns,
    )
    write_marker(split_dir, marker)


def finish_split(cache: AnyPath, spec: CacheSpec, left_out: tuple[LeftOut, ...]) -> Manifest | None:
    """The manifest, written unless it is there already; None while a marker is missing. The item list must be there.

    Other files of a finished split that are gone or changed, and follow from these, are written again, with a warning.
    """
    split_dir = cache / spec.split
    seals = read_seals(split_dir) or {}
    items = read_item_list(split_dir)
    num_items = len(items.labels)
    if len(marked_shards(split_dir, num_shards(num_items, spec.shard_size))) < num_shards(num_items, spec.shard_size):
        return None
    contents = unknown_contents(num_items)
    try:
        markers = _markers(split_dir, spec, items, contents)
        manifest = make_manifest(spec, items.classes, num_items, markers, left_out=left_out)
    except FileNotFoundError:
        return None
    manifest = manifest.model_copy(
        update={
            "contents_sha256": hash_contents(items, contents),
            "duplicates": find_duplicates(cache, spec.split, items, contents, manifest.labels.whole()),
        }
    )
    files = {name: seal_of(map_file(split_dir, name, None)) for name in LIST_FILES}
    derived: dict[str, Parts] = {SPEC: (dump_spec(spec),)} | contents_files(contents) | table_files(manifest)
    if spec.format == "zarr":
        derived |= zarr_store.metadata_files(manifest, items.keys)
    for name, parts in derived.items():
        if name in seals and find_damage(split_dir, name, seals[name]) is None:
            files[name] = seals[name]  # as another version of zarr-python may have written it
            continue
        files[name] = seal_of(*parts)
        if find_damage(split_dir, name, files[name]) is not None:
            if name in seals:
                logger.warning("%s/%s is missing or has changed; it is written anew", split_dir, name)
            publish(split_dir / name, *parts)
    manifest = manifest.model_copy(update={"files": dict(sorted(files.items()))})
    forget_refused(split_dir)
    sweep_tree(split_dir)
    if not _holds(split_dir, manifest):
        write_manifest(split_dir, manifest)
        for later in splits_after(spec.split):
            _look_for_duplicates_again(cache, later)
    return manifest


def _markers(
    split_dir: AnyPath, spec: CacheSpec, items: ItemList, contents: Contents
) -> Iterator[tuple[Marker, FileSeal]]:
    """Yields every marker in order, with its file's seal, and fills in what its images held.

    Raises FileNotFoundError for one that is missing, and WorkError for one that is damaged or of other images.
    """
    num_items = len(items.labels)
    shards = range(num_shards(num_items, spec.shard_size))
    read = each_of(lambda shard: read_whole(marker_path(split_dir, shard)), shards, split_dir)
    for shard, data in zip(shards, read, strict=True):
        path = marker_path(split_dir, shard)
        marker = parse_marker(data, path, shard)
        check_marker_for(marker, spec, num_items, len(items.classes), path)
        positions = shard_positions(shard, num_items, spec.shard_size)
        if items.keys[positions.start : positions.stop] != marker.keys:
            raise WorkError(
                f"{split_dir}/items has other keys than the shards; delete it and run the same command again"
            )
        fill_contents(contents, positions, marker)
        yield marker, seal_of(data)


def reopen_split(split_dir: AnyPath) -> None:
    """A split is no longer finished: one of its shards is about to be written anew."""
    (split_dir / "manifest.json").unlink(missing_ok=True)


def _look_for_duplicates_again(cache: AnyPath, split: str) -> None:
    """Mends what the manifest of a finished split says of images that lie in a split which was finished later."""
    split_dir = cache / split
    if not has_contents(split_dir):
        return
    try:
        manifest = read_manifest(split_dir)
    except FileNotFoundError:
        return
    items = read_item_list(split_dir, manifest.seals)
    contents = read_contents(split_dir, len(items.labels), manifest.seals)
    duplicates = find_duplicates(cache, split, items, contents, manifest.labels.whole())
    if duplicates != manifest.duplicates:
        write_manifest(split_dir, manifest.model_copy(update={"duplicates": duplicates}))


def _holds(split_dir: AnyPath, manifest: Manifest) -> bool:
    try:
        return (split_dir / "manifest.json").read_bytes() == dump_manifest(manifest)
    except FileNotFoundError:
        return False


def fill_contents(contents: Contents, positions: range, marker: Marker) -> None:
    """Writes what the image files of a shard held into what those of the split held."""
    if marker.image_bytes is not None and marker.image_hashes is not None:
        contents.num_bytes[positions.start : positions.stop] = marker.image_bytes
        contents.hashes[positions.start : positions.stop] = hashes_of(marker.image_hashes)
