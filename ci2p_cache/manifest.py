"""Shard commit markers and the manifest: a shard exists only if its marker does (promise C2), a split only if its
manifest does, and whatever is missing is listed by key and reason (promise C5)."""

import hashlib
import json
from pathlib import Path
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from ci2p_cache.bounds import Classes, Count, Finite, Label, Sha256, check_manifest, check_marker, complaint
from ci2p_cache.duplicates import NO_DUPLICATES, Duplicates
from ci2p_cache.errors import WorkError
from ci2p_cache.escapes import Escape
from ci2p_cache.left_out import LeftOut
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
    num_samples: Count
    bytes: Count
    sha256: Sha256
    num_escapes: Count = 0  # integers beyond what a stored byte holds: the marker lists them
    escapes_sha256: Sha256 | None = None  # of that list: see `hash_escapes`

    @model_serializer(mode="wrap")
    def _serialise(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves the last two out where there are none: such a cache has the files it had before there were any."""
        fields: dict[str, Any] = serialise(self)
        if not self.num_escapes:
            for name in ("num_escapes", "escapes_sha256"):
                fields.pop(name, None)
        return fields


class Marker(BaseModel):
    """The commit marker of one shard, shards/000000.json: written last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec_id: str
    shard: Count
    record: ShardRecord
    keys: list[str]  # one per planned position, in order
    labels: list[Label]  # the same; NO_LABEL where the image failed
    failures: list[Failure]
    value_range: tuple[Finite, Finite]  # of the dequantised latents; (0, 0) for a shard of failures alone
    recorded: dict[str, Any]  # device, precision, versions: what should not, but might, matter
    view_offsets: list[list[int]] | None = None  # tars only: where each view's buffer begins in the file, [n][V]
    view_bytes: list[list[int]] | None = None  # tars only: how long it is, [n][V]
    escapes: list[Escape] | None = None  # what the stored values 255 stand for; None where there is none
    # Of each planned position, since format version 2: the image file's size, its hash (see `hash_content`) and when it
    # was last modified, in ns since 1970 (of a tar's member: the tar). -1 and "" where it was not read, or unknown.
    image_bytes: list[int] | None = None
    image_hashes: list[str] | None = None
    modified_ns: list[int] | None = None

    @model_validator(mode="after")
    def _within_bounds(self) -> Self:
        check_marker(self)
        return self


class Manifest(BaseModel):
    """One finished split, manifest.json: written once every marker exists."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: CacheSpec
    spec_id: str
    classes: Classes
    num_items: Count  # planned
    num_images: Count  # stored
    num_views: Count  # stored, over all images
    num_failed: Count
    bytes_total: Count  # of the shard files
    value_range: tuple[Finite, Finite]
    shards: list[ShardRecord]
    labels: list[Label]  # one per planned position; NO_LABEL where the image failed
    failures: list[Failure]
    recorded: list[dict[str, Any]]  # what the markers recorded, each different one once
    # Since format version 2:
    contents_sha256: Sha256 | None = None  # of every key, label, size and hash: see `hash_contents`
    left_out: tuple[LeftOut, ...] = ()  # what the data set holds and this split, or the whole of it, left out
    duplicates: Duplicates = NO_DUPLICATES

    @model_validator(mode="after")
    def _within_bounds(self) -> Self:
        check_manifest(self)
        return self

    @property
    def num_escapes(self) -> int:
        return sum(shard.num_escapes for shard in self.shards)


def marker_path(split_dir: Path, shard: int) -> Path:
    return split_dir / "shards" / f"{shard:06d}.json"


def hash_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def hash_escapes(escapes: list[Escape]) -> str:
    """SHA-256 of the list as compact JSON."""
    return hash_bytes(json.dumps(escapes, separators=(",", ":")).encode())


def write_marker(split_dir: Path, marker: Marker) -> None:
    """The last step of writing a shard."""
    publish(marker_path(split_dir, marker.shard), marker.model_dump_json(exclude_none=True).encode())


def read_marker(split_dir: Path, shard: int) -> Marker | None:
    """The marker of a shard, or None when the shard does not exist. Raises WorkError when the marker is damaged."""
    path = marker_path(split_dir, shard)
    try:
        return parse_marker(path.read_bytes(), path)
    except FileNotFoundError:
        return None


def parse_marker(data: bytes, path: Path | str) -> Marker:
    """Raises WorkError, naming the `path` that the bytes came from, when they are no marker."""
    try:
        return Marker.model_validate_json(data)
    except ValidationError as error:
        raise WorkError(f"{path} is damaged ({complaint(error)}); delete it and run the same command again") from error


def make_manifest(
    spec: CacheSpec,
    classes: tuple[str, ...],
    markers: list[Marker],
    *,
    contents_sha256: str | None,
    left_out: tuple[LeftOut, ...],
    duplicates: Duplicates,
) -> Manifest:
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
        contents_sha256=contents_sha256,
        left_out=left_out,
        duplicates=duplicates,
    )


def read_manifest(split_dir: Path) -> Manifest:
    """The manifest of a finished split. Raises FileNotFoundError, and WorkError when it is damaged."""
    path = split_dir / "manifest.json"
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise WorkError(f"{path} is damaged ({complaint(error)}); run `ci2p verify`") from error


def dump_manifest(manifest: Manifest) -> bytes:
    return manifest.model_dump_json().encode()


def write_manifest(split_dir: Path, manifest: Manifest) -> None:
    publish(split_dir / "manifest.json", dump_manifest(manifest))
