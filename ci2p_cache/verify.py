"""Hold a cache against its seals, recount it, and say what is wrong (promise C6)."""

from collections.abc import Callable, Iterator

from ci2p_cache import version_1
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.items import Contents, ItemList, hash_contents, read_contents, read_item_list, unknown_contents
from ci2p_cache.manifest import Manifest, check_marker_in, read_manifest, read_seals
from ci2p_cache.marker import Marker, hash_escapes, marker_file, read_marker
from ci2p_cache.plan import shard_positions
from ci2p_cache.remote_path import AnyPath, RemotePath, each_of, folders_in
from ci2p_cache.seals import Seals, find_damage, unknown_files
from ci2p_cache.shard import fill_contents
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
        return _damaged_files(split_dir, read_seals(split_dir) or {}, 2) or [str(error)]
    except OSError as error:
        if isinstance(split_dir, RemotePath):
            raise
        return [str(error)]
    seals = version_1.seals_of_shards(manifest) if manifest.seals is None else manifest.seals
    return _damaged_files(split_dir, seals, manifest.spec.format_version) or _recount(split_dir, manifest)


def _damaged_files(split_dir: AnyPath, seals: Seals, format_version: int) -> list[str]:
    damages = []
    found = each_of(lambda name: find_damage(split_dir, name, seals[name]), seals, split_dir)
    for name, damage in zip(seals, found, strict=True):
        if damage is not None:
            damages.append(f"{split_dir.name}/{name}: {damage}; {_way_out(damage, format_version)}")
    return damages


def _way_out(damage: str, format_version: int) -> str:
    if format_version == 1:
        return "encode the images again"
    return f"{'' if damage == 'missing' else 'delete it and '}run the same `ci2p encode` again to restore it"


def _recount(split_dir: AnyPath, manifest: Manifest) -> list[str]:
    """What does not fit together in a split whose files are as they were sealed, as far as they were."""
    if manifest.spec.format_version == 1:
        markers: list[Marker] = []
        problems = list(_recount_shards(split_dir, manifest, markers.append))
        return problems or version_1.disagreements(split_dir, manifest, markers)
    try:
        items = read_item_list(split_dir)
        contents = read_contents(split_dir, len(items.labels))
    except WorkError as error:
        return [str(error)]
    found = unknown_contents(len(items.labels))
    other_keys = False

    def compare(marker: Marker) -> None:
        nonlocal other_keys
        positions = shard_positions(marker.shard, len(items.labels), manifest.spec.shard_size)
        if len(positions) != len(marker.keys) or items.keys[positions.start : positions.stop] != marker.keys:
            other_keys = True
        else:
            fill_contents(found, positions, marker)

    problems = list(_recount_shards(split_dir, manifest, compare))
    name = f"{split_dir.name}/items"
    if other_keys:
        problems.append(f"{name}: other keys than in the markers")
    elif found != contents:
        problems.append(f"{name}: other sizes or hashes of images than in the markers")
    return problems + _recount_items(name, manifest, items, contents)


def _recount_shards(split_dir: AnyPath, manifest: Manifest, use: Callable[[Marker], None]) -> Iterator[str]:
    """Yields what does not fit, a line each, and has every marker used that can be read."""
    for number in range(len(manifest.shards)):
        try:
            marker = read_marker(split_dir, number)
        except WorkError as error:
            yield str(error)
            continue
        if marker is None:
            yield f"{split_dir.name}/{marker_file(number)}: missing"
            continue
        yield from _recount_shard(split_dir, manifest, marker)
        use(marker)


def _recount_items(name: str, manifest: Manifest, items: ItemList, contents: Contents) -> list[str]:
    """Whether the item list is that of the plan and says the same as the manifest."""
    problems = []
    if list(items.classes) != manifest.classes:
        problems.append(f"{name}: other classes than in the manifest")
    if hash_contents(items, contents) != manifest.contents_sha256:
        problems.append(f"{name}: changed (its hash is not that of the manifest)")
    by_key = items.keys.order()
    known = items.labels.min(initial=0) >= 0
    if known and hash_items(items.keys.take(by_key), items.labels[by_key], items.classes) != manifest.spec.items_sha256:
        problems.append(f"{name}: not the items of the spec (items_sha256)")
    return problems


def _recount_shard(split_dir: AnyPath, manifest: Manifest, marker: Marker) -> list[str]:
    record, number = manifest.shards[marker.shard], marker.shard
    name = f"{split_dir.name}/{marker_file(number)}"
    problems = []
    planned = shard_positions(number, manifest.num_items, manifest.spec.shard_size)
    if marker.spec_id != manifest.spec_id:
        problems.append(f"{name}: of another cache (spec_id)")
    try:
        labels = manifest.labels.of_shard(number).tolist()
    except WorkError as error:
        return [str(error)]
    if marker.record != record or marker.labels != labels:
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
