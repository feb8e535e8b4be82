"""Shard commit markers and the manifest: a shard exists only if its marker does (promise C2), a split only if its
manifest does, and whatever is missing is listed by key and reason (promise C5)."""

import hashlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ci2p_cache.errors import WorkError
from ci2p_cache.publish import publish
from ci2p_cache.spec import CacheSpec

NO_LABEL = -1  # the label of a position whose image failed


class Failure(BaseModel):
    """An item that is not in the cache, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    reason: str


class ShardRecord(BaseModel):
    """What the manifest knows of a shard file: enough to find it truncated, missing or changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str  # relative to the split's folder
    num_samples: int
    bytes: int
    sha256: str


class Marker(BaseModel):
    """The commit marker of one shard, shards/000000.json: written last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec_id: str
    shard: int
    record: ShardRecord
    keys: list[str]  # one per planned position, in order
    labels: list[int]  # the same; NO_LABEL where the image failed
    failures: list[Failure]
    value_range: tuple[float, float]  # of the dequantised latents; (0, 0) for a shard of failures alone
    recorded: dict[str, Any]  # device, precision, versions: what should not, but might, matter
    view_offsets: list[list[int]] | None = None  # tars only: where each view's buffer begins in the file, [n][V]
    view_bytes: list[list[int]] | None = None  # tars only: how long it is, [n][V]


class Manifest(BaseModel):
    """One finished split, manifest.json: written once every marker exists."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: CacheSpec
    spec_id: str
    classes: list[str]
    num_items: int  # planned
    num_images: int  # stored
    num_views: int  # stored, over all images
    num_failed: int
    bytes_total: int  # of the shard files
    value_range: tuple[float, float]
    shards: list[ShardRecord]
    labels: list[int]  # one per planned position; NO_LABEL where the image failed
    failures: list[Failure]
    recorded: list[dict[str, Any]]  # what the markers recorded, each different one once


def marker_path(split_dir: Path, shard: int) -> Path:
    return split_dir / "shards" / f"{shard:06d}.json"


def hash_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_marker(split_dir: Path, marker: Marker) -> None:
    """The last step of writing a shard."""
    publish(marker_path(split_dir, marker.shard), marker.model_dump_json(exclude_none=True).encode())


def read_marker(split_dir: Path, shard: int) -> Marker | None:
    """The marker of a shard, or None when the shard does not exist. Raises WorkError when the marker is damaged."""
    path = marker_path(split_dir, shard)
    try:
        return Marker.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise WorkError(
            f"{path} is damaged ({error.error_count()} fields); delete it and run the same command again"
        ) from error


def make_manifest(spec: CacheSpec, classes: tuple[str, ...], markers: list[Marker]) -> Manifest:
    """The manifest of a split whose markers are all there, in order."""
    stored = [marker.value_range for marker in markers if marker.record.num_samples]
    recorded: list[dict[str, Any]] = []
    for marker in markers:
        if marker.recorded not in recorded:
            recorded.append(marker.recorded)
    num_images = sum(marker.record.num_samples for marker in markers)
    return Manifest(
        spec=spec,
        spec_id=spec.spec_id,
        classes=list(classes),
        num_items=sum(len(marker.keys) for marker in markers),
        num_images=num_images,
        num_views=num_images * len(spec.views),
        num_failed=sum(len(marker.failures) for marker in markers),
        bytes_total=sum(marker.record.bytes for marker in markers),
        value_range=(
            min((low for low, _ in stored), default=0.0),
            max((high for _, high in stored), default=0.0),
        ),
        shards=[marker.record for marker in markers],
        labels=[label for marker in markers for label in marker.labels],
        failures=[failure for marker in markers for failure in marker.failures],
        recorded=recorded,
    )


def write_manifest(split_dir: Path, manifest: Manifest) -> None:
    publish(split_dir / "manifest.json", manifest.model_dump_json().encode())
