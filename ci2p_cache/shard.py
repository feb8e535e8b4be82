"""A shard from its views' buffers: file, then marker; and a split's manifest once every marker is there.

Both formats are written here and nowhere else, by stage one and by `convert` alike (promises C2 and C5).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ci2p_cache import rans, tar_store, zarr_store
from ci2p_cache.duplicates import find_duplicates, splits_after
from ci2p_cache.escapes import Escape
from ci2p_cache.items import (
    NO_BYTES,
    Contents,
    contents_of,
    has_contents,
    hash_contents,
    read_contents,
    read_item_list,
    write_contents,
)
from ci2p_cache.left_out import LeftOut
from ci2p_cache.manifest import (
    NO_LABEL,
    Failure,
    Manifest,
    Marker,
    ShardRecord,
    dump_manifest,
    hash_bytes,
    hash_escapes,
    make_manifest,
    read_manifest,
    read_marker,
    write_manifest,
    write_marker,
)
from ci2p_cache.plan import num_shards
from ci2p_cache.publish import publish, remove_leftovers
from ci2p_cache.spec import CacheSpec


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


def is_written(split_dir: Path, shard: int, spec: CacheSpec) -> bool:
    """A shard is there when its marker is, of this spec, and its file is as long as the marker says."""
    marker = read_marker(split_dir, shard)
    if marker is None or marker.spec_id != spec.spec_id:
        return False
    file = split_dir / marker.record.file
    return file.exists() and file.stat().st_size == marker.record.bytes


def write_shard(split_dir: Path, spec: CacheSpec, shard: int, contents: ShardContents) -> None:
    """The shard's file, then its marker: both published whole, in this order. Raises OSError when the disk refuses."""
    assert all((label == NO_LABEL) == (row is None) for label, row in zip(contents.labels, contents.rows, strict=True))
    rows, tables = contents.rows, b""
    if spec.store == "rans":
        rows, tables = rans.code_shard(rows, spec.latent_shape)
    offsets = sizes = None
    if spec.format == "zarr":
        file, data = zarr_store.shard_file(shard), zarr_store.shard_bytes(rows, spec, tables)
    else:
        file = tar_store.shard_file(shard)
        data, offsets, sizes = tar_store.shard_bytes(spec, shard, contents.keys, contents.labels, rows, tables)
    remove_leftovers(split_dir / file)
    publish(split_dir / file, data)
    record = ShardRecord(
        file=file,
        num_samples=sum(label != NO_LABEL for label in contents.labels),
        bytes=len(data),
        sha256=hash_bytes(data),
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
        escapes=contents.escapes or None,
        image_bytes=contents.image_bytes,
        image_hashes=contents.image_hashes,
        modified_ns=contents.modified_ns,
    )
    write_marker(split_dir, marker)


def finish_split(cache: Path, spec: CacheSpec, left_out: tuple[LeftOut, ...]) -> Manifest | None:
    """The manifest, written unless it is there already; None while a marker is missing. The item list must be there."""
    split_dir = cache / spec.split
    items = read_item_list(split_dir)
    markers: list[Marker] = []
    for shard in range(num_shards(len(items.labels), spec.shard_size)):
        marker = read_marker(split_dir, shard)
        if marker is None:
            return None
        markers.append(marker)
    contents = contents_of_markers(markers)
    manifest = make_manifest(
        spec,
        items.classes,
        markers,
        contents_sha256=hash_contents(items, contents),
        left_out=left_out,
        duplicates=find_duplicates(
            cache, spec.split, items, contents, np.array([label for marker in markers for label in marker.labels])
        ),
    )
    if not _holds(split_dir, manifest):
        if spec.format == "zarr":
            zarr_store.write_metadata(split_dir, manifest)
        write_contents(split_dir, contents)
        write_manifest(split_dir, manifest)
        for later in splits_after(spec.split):
            _look_for_duplicates_again(cache, later)
    return manifest


def reopen_split(split_dir: Path) -> None:
    """A split is no longer finished: one of its shards is about to be written anew."""
    (split_dir / "manifest.json").unlink(missing_ok=True)


def _look_for_duplicates_again(cache: Path, split: str) -> None:
    """Mends what the manifest of a finished split says of images that lie in a split which was finished later."""
    split_dir = cache / split
    if not (split_dir / "manifest.json").exists() or not has_contents(split_dir):
        return
    manifest = read_manifest(split_dir)
    items = read_item_list(split_dir)
    contents = read_contents(split_dir, len(items.labels))
    duplicates = find_duplicates(cache, split, items, contents, np.asarray(manifest.labels))
    if duplicates != manifest.duplicates:
        write_manifest(split_dir, manifest.model_copy(update={"duplicates": duplicates}))


def _holds(split_dir: Path, manifest: Manifest) -> bool:
    path = split_dir / "manifest.json"
    return path.exists() and path.read_bytes() == dump_manifest(manifest)


def contents_of_markers(markers: Sequence[Marker]) -> Contents:
    """What the image files of a split held, from its markers in order."""
    num_bytes: list[int] = []
    hashes: list[str] = []
    for marker in markers:
        nothing = len(marker.keys)
        num_bytes += marker.image_bytes or [NO_BYTES] * nothing
        hashes += marker.image_hashes or [""] * nothing
    return contents_of(num_bytes, hashes)
