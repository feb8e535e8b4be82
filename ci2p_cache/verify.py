"""Hold a cache against its seals, recount it, and say what is wrong (promise C6)."""

import numpy as np

from ci2p_cache import version_1
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.items import hash_contents, read_contents, read_item_list
from ci2p_cache.manifest import (
    Manifest,
    Marker,
    check_marker_in,
    hash_escapes,
    marker_file,
    read_manifest,
    read_marker,
    read_seals,
)
from ci2p_cache.plan import shard_positions
from ci2p_cache.remote_path import AnyPath, RemotePath, each_of, folders_in
from ci2p_cache.seals import find_damage, unknown_files
from ci2p_cache.shard import contents_of_markers
from ci2p_cache.spec import SPEC, hash_items
from ci2p_cache.zarr_store import GROUP

# By any of these a split is known, whatever else of it is gone; an item list alone is that of one not begun.
_TRACES = (SPEC, "manifest.json", "shards", GROUP, "items/num_bytes.npy", "items/hashes.npy")


def find_splits(cache: AnyPath) -> list[str]:
    """The splits of a cache, finished, damaged or not. Raises InputError when there is none."""
    if not cache.is_dir():
        raise InputError(f"the cache {cache} does not exist")
    splits = [name for name in folders_in(cache) if any((cache / name / trace).exists() for trace in _TRACES)]
    if not splits:
        raise InputError(f"{cache} is no ci2p cache: it holds no SPLIT/{SPEC}")
    return splits


def verify_split(cache: AnyPath, split: str) -> list[str]:
    """Everything that is wrong with one split, a line each; an empty list when every byte is as it was written and
    nothing else lies in its folder."""
    seals = read_seals(cache / split)
    unknown = [] if seals is None else unknown_files(cache / split, seals)
    return find_damages(cache, split) + [f"{split}/{name}: no file of the cache; delete it" for name in unknown]


def find_damages(cache: AnyPath, split: str) -> list[str]:
    """What is missing of a split or changed, a line each."""
    split_dir = cache / split
    try:
        manifest = read_manifest(split_dir)
    except FileNotFoundError:
        return [f"{split}: not finished (no manifest.json); run the same `ci2p encode` again"]
    except (WorkError, InputError) as error:
        return [str(error)]
    except OSError as error:
        if isinstance(split_dir, RemotePath):
            raise
        return [str(error)]
    seals = version_1.seals_of_shards(manifest) if manifest.files is None else manifest.files
    damages = []
    found = each_of(lambda name: find_damage(split_dir, name, seals[name]), seals, split_dir)
    for name, damage in zip(seals, found, strict=True):
        if damage is not None:
            damages.append(f"{split}/{name}: {damage}; {_way_out(damage, manifest)}")
    return damages or _recount(split_dir, manifest)


def _way_out(damage: str, manifest: Manifest) -> str:
    if manifest.spec.format_version == 1:
        return "encode the images again"
    return f"{'' if damage == 'missing' else 'delete it and '}run the same `ci2p encode` again to restore it"


def _recount(split_dir: AnyPath, manifest: Manifest) -> list[str]:
    """What does not fit together in a split whose files are as they were sealed, as far as they were."""
    spec = manifest.spec
    problems: list[str] = []
    markers: list[Marker] = []
    for number in range(len(manifest.shards)):
        try:
            marker = read_marker(split_dir, number)
        except WorkError as error:
            problems.append(str(error))
            continue
        if marker is None:
            problems.append(f"{split_dir.name}/{marker_file(number)}: missing")
            continue
        problems += _recount_shard(split_dir, manifest, marker)
        markers.append(marker)
    if spec.format_version > 1:
        problems += _recount_items(split_dir, manifest, markers)
    elif not problems:
        problems += version_1.disagreements(split_dir, manifest, markers)
    return problems


def _recount_items(split_dir: AnyPath, manifest: Manifest, markers: list[Marker]) -> list[str]:
    """Whether the item list is that of the plan and says the same as markers and manifest."""
    try:
        items = read_item_list(split_dir)
        contents = read_contents(split_dir, len(items.labels))
    except WorkError as error:
        return [str(error)]
    name = f"{split_dir.name}/items"
    problems = []
    if len(markers) == len(manifest.shards):
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


def _recount_shard(split_dir: AnyPath, manifest: Manifest, marker: Marker) -> list[str]:
    record, number = manifest.shards[marker.shard], marker.shard
    name = f"{split_dir.name}/{marker_file(number)}"
    problems = []
    begin = number * manifest.spec.shard_size
    planned = shard_positions(number, manifest.num_items, manifest.spec.shard_size)
    if marker.spec_id != manifest.spec_id:
        problems.append(f"{name}: of another cache (spec_id)")
    if marker.record != record or marker.labels != manifest.labels[begin : begin + len(planned)]:
        problems.append(f"{name}: it and the manifest disagree")
    if len(set(marker.keys)) != len(planned):
        problems.append(f"{name}: {len(set(marker.keys))} keys for {len(planned)} items")
    if (hash_escapes(marker.escapes) if marker.escapes else None) != record.escapes_sha256:
        problems.append(f"{name}: its escapes have changed; delete it and encode again")
    if not problems:
        try:
            check_marker_in(marker, manifest, name)
        except WorkError as error:
            problems.append(str(error))
    return problems
