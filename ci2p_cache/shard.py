"""A shard from its views' buffers: file, then marker; and a split's manifest once every marker is there.

Both formats are written here and nowhere else, by stage one and by `convert` alike (promises C2 and C5).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ci2p_cache import rans, tar_store, zarr_store
from ci2p_cache.escapes import Escape
from ci2p_cache.manifest import (
    NO_LABEL,
    Failure,
    Manifest,
    Marker,
    ShardRecord,
    hash_bytes,
    hash_escapes,
    make_manifest,
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
    )
    write_marker(split_dir, marker)


def finish_split(split_dir: Path, spec: CacheSpec, classes: tuple[str, ...], num_items: int) -> Manifest | None:
    """The manifest, written unless it is there already; None while a marker is missing."""
    markers: list[Marker] = []
    for shard in range(num_shards(num_items, spec.shard_size)):
        marker = read_marker(split_dir, shard)
        if marker is None:
            return None
        markers.append(marker)
    manifest = make_manifest(spec, classes, markers)
    if not (split_dir / "manifest.json").exists():
        if spec.format == "zarr":
            zarr_store.write_metadata(split_dir, manifest)
        write_manifest(split_dir, manifest)
    return manifest
