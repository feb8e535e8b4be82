"""Shard commit markers: a shard exists only if its marker does, which is written last (promise C2)."""

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

from ci2p_cache.bounds import Count, Finite, Label, Sha256, ShardId, check_marker, check_marker_of, complaint
from ci2p_cache.errors import WorkError
from ci2p_cache.escapes import Escape
from ci2p_cache.publish import publish
from ci2p_cache.remote_path import AnyPath, read_whole
from ci2p_cache.seals import seal_json, unseal_json
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


def check_marker_for(marker: Marker, spec: CacheSpec, num_items: int, num_classes: int, path: AnyPath | str) -> None:
    """Raises WorkError, naming the `path` of a marker, unless it may be one of a split of so many items and classes."""
    try:
        check_marker_of(marker, spec, num_items, num_classes)
    except ValueError as error:
        raise WorkError(f"{path} is damaged ({error}); delete it and run the same command again") from error
