"""What is there of a split that is being written: its shards, and what of a finished one must be as it was."""

from ci2p_cache.errors import WorkError
from ci2p_cache.items import LIST_FILES
from ci2p_cache.manifest import read_seals
from ci2p_cache.marker import check_marker_for, marker_path, read_marker
from ci2p_cache.plan import num_shards
from ci2p_cache.remote_path import AnyPath, each_of, files_in, num_bytes
from ci2p_cache.seals import find_damage
from ci2p_cache.spec import CacheSpec


def written_shards(split_dir: AnyPath, spec: CacheSpec, num_items: int, num_classes: int) -> set[int]:
    """Those that are there: their markers are, of this spec and with an id, and each file is as long as its says.

    Raises WorkError for a marker that is damaged, or is none of a split of so many items and classes.
    """
    marked = marked_shards(split_dir, num_shards(num_items, spec.shard_size))
    found = each_of(lambda shard: is_written(split_dir, shard, spec, num_items, num_classes), marked, split_dir)
    return {shard for shard, is_there in zip(marked, found, strict=True) if is_there}


def marked_shards(split_dir: AnyPath, count: int) -> list[int]:
    """Of the first `count`, those whose markers are there. One listing: most may be missing."""
    markers = set(files_in(marker_path(split_dir, 0).parent))
    return [shard for shard in range(count) if marker_path(split_dir, shard).name in markers]


def is_written(split_dir: AnyPath, shard: int, spec: CacheSpec, num_items: int, num_classes: int) -> bool:
    """Whether one is; raises as `written_shards`."""
    marker = read_marker(split_dir, shard)
    if marker is None or marker.spec_id != spec.spec_id or marker.record.id is None:
        return False
    check_marker_for(marker, spec, num_items, num_classes, marker_path(split_dir, shard))
    try:
        return num_bytes(split_dir / marker.record.file) == marker.record.bytes
    except (FileNotFoundError, NotADirectoryError):
        return False


def hold_against_seals(split_dir: AnyPath) -> None:
    """Raises WorkError when the item list or a marker of a finished split is not as it was written.

    Whatever is missing is no error here: it is written anew. Nor is what another process has meanwhile begun to write.
    """
    seals = read_seals(split_dir) or {}
    names = [name for name in seals if name in LIST_FILES or name.startswith("shards/")]
    found = each_of(lambda name: find_damage(split_dir, name, seals[name]), names, split_dir)
    for name, damage in zip(names, found, strict=True):
        if damage not in (None, "missing") and read_seals(split_dir) == seals:
            raise WorkError(f"{split_dir}/{name}: {damage}; delete it and run the same command again")
