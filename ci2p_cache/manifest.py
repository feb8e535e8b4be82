"""A finished split: manifest.json, written once every marker exists, and beside it what grows with the images.

SPLIT/manifest.json    what there is one of, and the seals of the other files; its own seal
SPLIT/shards.npy       what is known of each shard: see `shard_table`
SPLIT/labels.npy       the label of each position: see `stored_labels`

Whatever is missing is listed by key and reason (promise C5).
"""

from collections import ChainMap
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, SkipValidation, ValidationError, model_validator

from ci2p_cache.arrays import Parts, map_array, npy_parts
from ci2p_cache.bounds import Classes, Count, Finite, Label, Sha256, check_manifest, complaint
from ci2p_cache.duplicates import NO_DUPLICATES, Duplicates
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.left_out import LeftOut
from ci2p_cache.marker import Failure, Marker, ShardRecord, check_marker_for
from ci2p_cache.plan import num_shards
from ci2p_cache.publish import publish
from ci2p_cache.remote_path import AnyPath, read_whole
from ci2p_cache.scratch import scratch_array
from ci2p_cache.seals import MANIFEST, FileSeal, Seals, seal_json, unseal_json
from ci2p_cache.shard_table import ROW, SHARDS, ShardTable, row_of, table_of_records
from ci2p_cache.spec import CacheSpec
from ci2p_cache.stored_labels import LABELS, StoredLabels, checksum_of


class _Fields(BaseModel):
    """What manifest.json says of a split."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    spec: CacheSpec
    spec_id: str
    classes: Classes
    num_items: Count  # planned
    num_images: Count  # stored
    num_views: Count  # stored, over all images
    num_failed: Count
    bytes_total: Count  # of the shard files
    value_range: tuple[Finite, Finite]
    failures: list[Failure]
    recorded: list[dict[str, Any]]  # what the markers recorded, each different one once
    # Since format version 2:
    contents_sha256: Sha256 | None = None  # of every key, label, size and hash: see `hash_contents`
    left_out: tuple[LeftOut, ...] = ()  # what the data set holds and this split, or the whole of it, left out
    duplicates: Duplicates = NO_DUPLICATES
    # Of every file of the split but this one, the shards and their markers; None of version 1, which knew none.
    files: dict[str, FileSeal] | None = None


class _ManifestFile(_Fields):
    """manifest.json itself: of format version 1, and of version 2 before it was fixed, it lists shards and labels."""

    shards: list[ShardRecord] | None = None
    labels: list[Label] | None = None  # one per planned position; -1 where the image failed


class Manifest(_Fields):
    """One finished split."""

    shards: SkipValidation[ShardTable] = Field(exclude=True)
    labels: SkipValidation[StoredLabels] = Field(exclude=True)

    @model_validator(mode="after")
    def _within_bounds(self) -> Self:
        check_manifest(self)
        return self

    @property
    def num_escapes(self) -> int:
        return int(self.shards.column("num_escapes").sum())

    @property
    def seals(self) -> Seals | None:
        """Of every file of the split but the manifest; None of format version 1."""
        return None if self.files is None else ChainMap(self.files, self.shards.seals())  # type: ignore[arg-type]


def check_marker_in(marker: Marker, manifest: Manifest, path: AnyPath | str) -> None:
    """Raises WorkError, naming the `path` of a marker, unless it says of its shard what the manifest says."""
    spec = manifest.spec
    check_marker_for(marker, spec, manifest.num_items, len(manifest.classes), path)
    for field, ours, theirs in (
        ("record", marker.record, manifest.shards[marker.shard]),
        ("labels", marker.labels, manifest.labels.of_shard(marker.shard).tolist()),
    ):
        if ours != theirs:
            raise WorkError(f"{path} is damaged ({field} differs from the manifest's); run `ci2p verify`")


def make_manifest(
    spec: CacheSpec,
    classes: tuple[str, ...],
    num_items: int,
    markers: Iterable[tuple[Marker, FileSeal]],
    *,
    left_out: tuple[LeftOut, ...],
) -> Manifest:
    """The manifest of a split from its markers, all of them in order, each with its file's seal; one is held at a time.

    What its images held, duplicates and the seals of other files are left to be filled in.
    """
    rows = np.zeros(num_shards(num_items, spec.shard_size), ROW)
    labels = scratch_array((num_items,), np.int32)
    failures: list[Failure] = []
    recorded: list[dict[str, Any]] = []
    ranges: list[tuple[float, float]] = []
    for number, (marker, seal) in enumerate(markers):
        begin = number * spec.shard_size
        labels[begin : begin + len(marker.labels)] = marker.labels
        rows[number] = row_of(marker.record, seal, checksum_of(np.array(marker.labels, np.int32)))
        failures += marker.failures
        if marker.recorded not in recorded:
            recorded.append(marker.recorded)
        if marker.record.num_samples:
            ranges.append(marker.value_range)
    table = ShardTable(rows, spec.format)
    num_images = int(table.column("num_samples").sum())
    return Manifest(
        spec=spec,
        spec_id=spec.spec_id,
        classes=list(classes),
        num_items=num_items,
        num_images=num_images,
        num_views=num_images * len(spec.views),
        num_failed=len(failures),
        bytes_total=int(table.column("bytes").sum()),
        value_range=(min((low for low, _ in ranges), default=0.0), max((high for _, high in ranges), default=0.0)),
        failures=failures,
        recorded=recorded,
        left_out=left_out,
        shards=table,
        labels=StoredLabels(labels, table, spec.shard_size, len(classes), f"the markers of {spec.split}"),
    )


def table_files(manifest: Manifest) -> dict[str, Parts]:
    """The files, by their path in a split's folder, that hold what grows with the images."""
    return {SHARDS: npy_parts(manifest.shards.rows), LABELS: npy_parts(manifest.labels.whole())}


def read_manifest(split_dir: AnyPath) -> Manifest:
    """The manifest of a finished split. Raises FileNotFoundError, and as `parse_manifest` does."""
    return parse_manifest(read_whole(split_dir / MANIFEST), split_dir)


def read_seals(split_dir: AnyPath) -> Seals | None:
    """What every file of a split was when it was finished; None where it is not, or the manifest is of no use.

    Where its arrays are of no use, of the files that the manifest itself seals.
    """
    try:
        data = read_whole(split_dir / MANIFEST)
        try:
            return parse_manifest(data, split_dir).seals
        except WorkError:
            return _parse_file(data, f"{split_dir}/{MANIFEST}").files
    except (FileNotFoundError, WorkError, InputError):
        return None


def parse_manifest(data: bytes, split_dir: AnyPath | str) -> Manifest:
    """The manifest of a split from the bytes of its file, with the arrays that lie beside it.

    Raises WorkError unless they are as they were written, and InputError where that was by a ci2p of another time.
    """
    path = f"{split_dir}/{MANIFEST}"
    file = _parse_file(data, path)
    try:
        table, labels = _read_tables(file, split_dir)
        stored = StoredLabels(labels, table, file.spec.shard_size, len(file.classes), f"{split_dir}/{LABELS}")
        return Manifest(**{name: getattr(file, name) for name in _Fields.model_fields}, shards=table, labels=stored)
    except ValidationError as error:
        raise _damaged(path, complaint(error)) from error
    except ValueError as error:
        raise _damaged(path, str(error)) from error


def _parse_file(data: bytes, path: str) -> _ManifestFile:
    body = unseal_json(data)
    try:
        file = _ManifestFile.model_validate_json(data if body is None else body)
    except ValidationError as error:
        if body is not None and any(each["loc"][-1:] == ("format_version",) for each in error.errors()):
            raise InputError(f"{path} was made by a newer ci2p; upgrade ci2p") from error
        raise _damaged(path, complaint(error)) from error
    if file.spec.format_version > 1 and (body is None or file.files is None):
        raise InputError(f"{path} was made by a ci2p that did not seal its files yet; encode the images again")
    return file


def _read_tables(file: _ManifestFile, split_dir: AnyPath | str) -> tuple[ShardTable, NDArray[np.int32]]:
    """What is known of each shard, and the labels. Raises ValueError, naming the field, and WorkError."""
    if file.shards is not None and file.labels is not None:
        return table_of_records(file.shards, file.spec.format), np.array(file.labels, np.int32)
    seals = file.files or {}
    for name in (SHARDS, LABELS):
        if name not in seals:
            raise ValueError(f"files lacks {name}")
    rows = map_array(split_dir, SHARDS, ROW, seal=seals[SHARDS])
    labels = map_array(split_dir, LABELS, np.int32, seal=seals[LABELS], hashed=False)
    return ShardTable(rows, file.spec.format), labels


def _damaged(path: str, what: str) -> WorkError:
    return WorkError(f"{path} is damaged ({what}); run the same `ci2p encode` again to restore it")


def dump_manifest(manifest: Manifest) -> bytes:
    return seal_json(manifest.model_dump_json().encode())


def write_manifest(split_dir: AnyPath, manifest: Manifest) -> None:
    publish(split_dir / MANIFEST, dump_manifest(manifest))
