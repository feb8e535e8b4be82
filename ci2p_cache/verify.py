"""Recount and rehash a cache, and say what is wrong (promise C6)."""

from pathlib import Path

import numpy as np
from pydantic import ValidationError

from ci2p_cache import zarr_store
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.items import hash_contents, read_contents, read_item_list
from ci2p_cache.manifest import Manifest, hash_bytes, hash_escapes, read_marker
from ci2p_cache.plan import num_shards, shard_positions
from ci2p_cache.shard import contents_of_markers
from ci2p_cache.spec import hash_items


def find_splits(cache: Path) -> list[str]:
    """The splits of a cache, finished or not. Raises InputError when there is none."""
    if not cache.is_dir():
        raise InputError(f"the cache {cache} does not exist")
    splits = sorted(path.parent.name for path in cache.glob("*/spec.json"))
    if not splits:
        raise InputError(f"{cache} is no ci2p cache: it holds no SPLIT/spec.json")
    return splits


def verify_split(cache: Path, split: str) -> list[str]:
    """Everything that is wrong with one split, a line each; an empty list when every byte is as it was written."""
    split_dir = cache / split
    try:
        manifest = Manifest.model_validate_json((split_dir / "manifest.json").read_bytes())
    except FileNotFoundError:
        return [f"{split}: not finished (no manifest.json); run the same `ci2p encode` again"]
    except ValidationError as error:
        return [f"{split}/manifest.json: damaged ({error.error_count()} fields)"]
    spec = manifest.spec
    problems = []
    if manifest.spec_id != spec.spec_id:
        problems.append(f"{split}/manifest.json: spec_id {manifest.spec_id} is not that of its spec, {spec.spec_id}")
    if len(manifest.shards) != num_shards(manifest.num_items, spec.shard_size):
        problems.append(f"{split}/manifest.json: {len(manifest.shards)} shards for {manifest.num_items} items")
    for number, record in enumerate(manifest.shards):
        problems += _verify_shard(split_dir, manifest, number, record.file)
    if spec.format_version > 1:
        problems += _verify_items(split_dir, manifest)
    stored = sum(record.num_samples for record in manifest.shards)
    if not stored == manifest.num_images == sum(label >= 0 for label in manifest.labels):
        problems.append(f"{split}/manifest.json: {manifest.num_images} images, but its shards hold {stored}")
    if manifest.num_images + manifest.num_failed != manifest.num_items:
        problems.append(
            f"{split}/manifest.json: {manifest.num_images} images and {manifest.num_failed} failures do not make "
            f"{manifest.num_items} items"
        )
    if spec.format == "zarr" and not (split_dir / zarr_store.GROUP / "zarr.json").exists():
        problems.append(f"{split}/{zarr_store.GROUP}: zarr.json is missing")
    return problems


def _verify_items(split_dir: Path, manifest: Manifest) -> list[str]:
    """Whether the item list is that of the plan and says the same as markers and manifest."""
    try:
        items = read_item_list(split_dir)
        contents = read_contents(split_dir, len(items.labels))
        shards = range(len(manifest.shards))
        markers = [marker for marker in (read_marker(split_dir, shard) for shard in shards) if marker is not None]
    except WorkError as error:
        return [str(error)]
    name = f"{split_dir.name}/items"
    problems = []
    if len(markers) == len(shards):
        if items.keys != [key for marker in markers for key in marker.keys]:
            problems.append(f"{name}: other keys than in the markers")
        if contents_of_markers(markers) != contents:
            problems.append(f"{name}: other sizes or hashes of images than in the markers")
    if list(items.classes) != manifest.classes:
        problems.append(f"{name}: other classes than in the manifest")
    if hash_contents(items, contents) != manifest.contents_sha256:
        problems.append(f"{name}: changed (its hash is not that of the manifest)")
    by_key = sorted(range(len(items.labels)), key=items.keys.__getitem__)
    keys, labels = [items.keys[place] for place in by_key], items.labels[by_key]
    if np.all(labels >= 0) and hash_items(keys, labels.tolist(), items.classes) != manifest.spec.items_sha256:
        problems.append(f"{name}: not the items of the spec (items_sha256)")
    return problems


def _verify_shard(split_dir: Path, manifest: Manifest, number: int, file: str) -> list[str]:
    record = manifest.shards[number]
    name = f"{split_dir.name}/{file}"
    try:
        marker = read_marker(split_dir, number)
    except WorkError as error:
        return [str(error)]
    if marker is None:
        return [f"{name}: its marker is missing"]
    problems = []
    begin = number * manifest.spec.shard_size
    planned = shard_positions(number, manifest.num_items, manifest.spec.shard_size)
    if marker.record != record or marker.labels != manifest.labels[begin : begin + len(planned)]:
        problems.append(f"{name}: its marker and the manifest disagree")
    if len(set(marker.keys)) != len(planned):
        problems.append(f"{name}: {len(set(marker.keys))} keys for {len(planned)} items")
    if (hash_escapes(marker.escapes) if marker.escapes else None) != record.escapes_sha256:
        problems.append(f"{name}: the escapes in its marker have changed; delete both and encode again")
    path = split_dir / file
    if not path.exists():
        return [*problems, f"{name}: missing"]
    data = path.read_bytes()
    if len(data) != record.bytes:
        problems.append(f"{name}: {len(data)} bytes instead of {record.bytes}")
    elif hash_bytes(data) != record.sha256:
        problems.append(f"{name}: changed (its sha256 is not that of its marker); delete it and encode again")
    return problems
