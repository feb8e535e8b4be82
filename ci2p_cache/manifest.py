"""Shard commit markers and the manifest: a shard exists only if its marker does (promise C2), a split only if its
manifest does, and whatever is missing is listed by key and reason (promise C5)."""

import hashlib
import json
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from ci2p_cache.bounds import (
    Classes,
    Count,
    Finite,
    Label,
    Sha256,
    ShardId,
    check_manifest,
    check_marker,
    check_marker_of,
    complaint,
)
from ci2p_cache.duplicates import NO_DUPLICATES, Duplicates
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.escapes import Escape
from ci2p_cache.left_out import LeftOut
from ci2p_cache.publish import publish
from ci2p_cache.remote_path import AnyPath, read_whole
from ci2p_cache.seals import MANIFEST, FileSeal, seal_json, unseal_json
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
    id: ShardId | None = None  # what the file says of itself: see `PackedShard`; None of format version 1
    num_escapes: Count = 0  # integers beyond what a stored byte holds: the marker lists them
    escapes_sha256: Sha256 | None = None  # of that list: see `hash_escapes`

    @model_serializer(mode="wrap")
    def _serialise(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out what there is not: such a cache has the files it had before there was any."""
        fields: dict[str, Any] = serialise(self)
        if self.id is None:
            fields.pop("id", None)
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
    view_crc32c: list[list[int]] | None = None  # tars only, since format version 2: its checksum, [n][V]
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
    files: dict[str, FileSeal] | None = None  # every file of the split but this one; None of version 1, which knew none

    @model_validator(mode="after")
    def _within_bounds(self) -> Self:
        check_manifest(self)
        return self

    @property
    def num_escapes(self) -> int:
        return sum(shard.num_escapes for shard in self.shards)


def marker_file(shard: int) -> str:
    """Where a marker lies, relative to the split's folder."""
    return f"shards/{shard:06d}.json"


def marker_path(split_dir: AnyPath, shard: int) -> AnyPath:
    return split_dir / marker_file(shard)


def hash_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def hash_escapes(escapes: list[Escape]) -> str:
    """SHA-256 of the list as compact JSON."""
    return hash_bytes(json.dumps(escapes, separators=(",", ":")).encode())


def write_marker(split_dir: AnyPath, marker: Marker) -> None:
    """The last step of writing a shard."""
    publish(marker_path(split_dir, marker.shard), dump_marker(marker))


def dump_marker(marker: Marker) -> bytes:
    """What its file holds."""
    return seal_json(marker.model_dump_json(exclude_none=True).encode())


def read_marker(split_dir: AnyPath, shard: int) -> Marker | None:
    """The marker of a shard, or None when the shard does not exist. Raises WorkError when the marker is damaged."""
    path = marker_path(split_dir, shard)
    try:
        return parse_marker(read_whole(path), path, shard)
    except FileNotFoundError:
        return None


def parse_marker(data: bytes, path: AnyPath | str, shard: int) -> Marker:
    """Raises WorkError, naming the `path` that the bytes came from, when they are no marker of this shard."""
    body = unseal_json(data)
    try:
        # Those of format version 1 have no seal; what is left of a seal that does not hold is no field of a marker.
        marker = Marker.model_validate_json(data if body is None else body)
    except ValidationError as error:
        raise WorkError(f"{path} is damaged ({complaint(error)}); delete it and run the same command again") from error
    if marker.shard != shard:
        raise WorkError(f"{path} is that of shard {marker.shard}; delete it and run the same command again")
    return marker


def check_marker_in(marker: Marker, manifest: Manifest, path: AnyPath | str) -> None:
    """Raises WorkError, naming the `path` of a marker, unless it says of its shard what the manifest says."""
    spec = manifest.spec
    check_marker_for(marker, spec, manifest.num_items, len(manifest.classes), path)
    begin = marker.shard * spec.shard_size
    for field, ours, theirs in (
        ("record", marker.record, manifest.shards[marker.shard]),
        ("labels", marker.labels, manifest.labels[begin : begin + spec.shard_size]),
    ):
        if ours != theirs:
            raise WorkError(f"{path} is damaged ({field} differs from the manifest's); run `ci2p verify`")


def check_marker_for(marker: Marker, spec: CacheSpec, num_items: int, num_classes: int, path: AnyPath | str) -> None:
    """Raises WorkError, naming the `path` of a marker, unless it may be one of a split of so many items and classes."""
    try:
        check_marker_of(marker, spec, num_items, num_classes)
    except ValueError as error:
        raise WorkError(f"{path} is damaged ({error}); delete it and run the same command again") from error


def make_manifest(
    spec: CacheSpec,
    classes: tuple[str, ...],
    markers: list[Marker],
    *,
    contents_sha256: str | None,
    left_out: tuple[LeftOut, ...],
    duplicates: Duplicates,
    files: dict[str, FileSeal] | None = None,
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
        files=files,
    )


def read_manifest(split_dir: AnyPath) -> Manifest:
    """The manifest of a finished split. Raises FileNotFoundError, and as `parse_manifest` does."""
    path = split_dir / MANIFEST
    return parse_manifest(read_whole(path), path)


def read_seals(split_dir: AnyPath) -> dict[str, FileSeal] | None:
    """What every file of a split was when it was finished; None where it is not, or the manifest is of no use."""
    try:
        return read_manifest(split_dir).files
    except (FileNotFoundError, WorkError, InputError):
        return None


def parse_manifest(data: bytes, path: AnyPath | str) -> Manifest:
    """Raises WorkError, naming the `path` that the bytes came from, unless they are a manifest as it was written, and
    InputError where that was by a ci2p of another time."""
    body = unseal_json(data)
    try:
        manifest = Manifest.model_validate_json(data if body is None else body)
    except ValidationError as error:
        if body is not None and any(each["loc"][-1:] == ("format_version",) for each in error.errors()):
            raise InputError(f"{path} was made by a newer ci2p; upgrade ci2p") from error
        raise WorkError(
            f"{path} is damaged ({complaint(error)}); run the same `ci2p encode` again to restore it"
        ) from error
    if manifest.spec.format_version > 1 and (body is None or manifest.files is None):
        raise InputError(f"{path} was made by a ci2p that did not seal its files yet; encode the images again")
    return manifest


def dump_manifest(manifest: Manifest) -> bytes:
    return seal_json(manifest.model_dump_json().encode())


def write_manifest(split_dir: AnyPath, manifest: Manifest) -> None:
    publish(split_dir / MANIFEST, dump_manifest(manifest))
