"""A finished split of a cache, opened: what is in it and where. Reading it is `reader`'s and `loader`'s work."""

import os
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.disk_cache import LocalDisk
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.items import Contents, ItemList, read_contents, read_item_list
from ci2p_cache.manifest import Manifest, check_marker_in, parse_manifest
from ci2p_cache.marker import Marker, marker_file, parse_marker
from ci2p_cache.packed_strings import PackedStrings
from ci2p_cache.printable import counted
from ci2p_cache.remote import cannot_read, fetch
from ci2p_cache.remote_files import cannot_open, entries, exists, file_size, read_file, sizes_below
from ci2p_cache.remote_path import AnyPath, each_of
from ci2p_cache.spec import CacheSpec


@dataclass(frozen=True)
class Cache:
    """One finished split of a cache, opened."""

    path: str  # of the cache, a folder or an fsspec URL
    split: str
    manifest: Manifest
    failed: NDArray[np.int64]  # the positions that hold no sample, ascending
    disk: LocalDisk | None = None  # where the shards of a remote one are kept, once for all processes of the machine

    @property
    def spec(self) -> CacheSpec:
        return self.manifest.spec

    @property
    def split_dir(self) -> str:
        return f"{self.path}/{self.split}"

    @property
    def num_samples(self) -> int:
        """Images, each with all its views."""
        return self.manifest.num_images

    def positions_of(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each of [n] stored samples lies, int64 [n]: failures have a position and are no sample."""
        if not len(self.failed):
            return samples
        positions: NDArray[np.int64] = samples + np.searchsorted(
            self.failed - np.arange(len(self.failed)), samples, "right"
        )
        return positions

    def samples_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The samples that lie at [n] positions, int64 [n]."""
        samples: NDArray[np.int64] = positions - np.searchsorted(self.failed, positions)
        return samples

    def labels_of(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [n] in [0, num_classes) of [n] samples. Raises WorkError when they have changed on the disk."""
        return self.manifest.labels.at(self.positions_of(samples))

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """[N] of all samples, which are held from then on."""
        return self.positions_of(np.arange(self.num_samples))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """[N] of all samples, which are held from then on. Raises WorkError when they have changed on the disk."""
        return self.labels_of(np.arange(self.num_samples))

    @property
    def classes(self) -> list[str]:
        return self.manifest.classes

    @property
    def num_classes(self) -> int:
        return len(self.manifest.classes)

    def read_items(self) -> ItemList:
        """What the split is made of, in the order of the positions; its keys for one. Raises WorkError when damaged."""
        if self.spec.format_version > 1:
            items = read_item_list(self.split_dir, self.manifest.seals)
            if len(items.labels) != self.manifest.num_items or list(items.classes) != self.classes:
                raise WorkError(f"{self.split_dir}/items has other items or classes than the manifest; encode it again")
            return items
        markers = [_read_marker(self.split_dir, shard, self.manifest) for shard in range(len(self.manifest.shards))]
        labels = np.array([label for marker in markers for label in marker.labels], dtype=np.int32)
        keys = PackedStrings(key for marker in markers for key in marker.keys)
        return ItemList(tuple(self.classes), keys, labels)

    def read_keys(self) -> PackedStrings:
        """The key of each stored sample, [N]. Raises WorkError when the item list is damaged."""
        keys = self.read_items().keys
        if len(keys) == self.num_samples:
            return keys
        return keys.take(self.positions)

    def read_contents(self) -> Contents | None:
        """What each image file held, in the order of the positions; None of format version 1, which kept no hashes."""
        if self.spec.format_version == 1:
            return None
        return read_contents(self.split_dir, self.manifest.num_items, self.manifest.seals)


def open_cache(path: str | AnyPath, split: str, disk: LocalDisk | None = None) -> Cache:
    """Opens one split, to be kept on a `disk` where it is remote; costs one manifest and a look at every shard's size.

    Raises InputError for a folder that is no cache, a split that is not there or not finished, and WorkError for a
    manifest that is damaged, a shard that is missing or truncated (promise C6), or what a remote server refuses.
    """
    path = str(path).rstrip("/")
    split_dir = f"{path}/{split}"
    try:
        data = read_file(f"{split_dir}/manifest.json")
    except (ImportError, ValueError) as error:  # fsspec finds s3:// and gs:// through packages of their own
        raise cannot_open("--shards", path, error) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(_why_not(path, split)) from error
    except OSError as error:
        raise cannot_read(f"{split_dir}/manifest.json", error) from error
    manifest = parse_manifest(data, split_dir)
    sizes = manifest.shards.column("bytes").tolist()
    files = map(manifest.shards.file, range(len(sizes)))
    listed = _list_sizes(split_dir)
    shards = zip(files, sizes, strict=True)
    for state in each_of(lambda shard: _state_of(split_dir, *shard, listed), shards, split_dir):
        if state:
            raise WorkError(f"{state}; run the same `ci2p encode` again to restore it")
    if not manifest.num_images:
        raise InputError(f"{split_dir} holds no image: all {manifest.num_failed} of its items failed to encode")
    return Cache(path, split, manifest, manifest.labels.failed(), disk)


def _list_sizes(split_dir: str) -> dict[str, int] | None:
    """Of all files of a split in a bucket, in few requests; None where each is to be asked for."""
    if "://" not in split_dir or split_dir.startswith("file://"):
        return None
    try:
        return sizes_below(split_dir)
    except PermissionError:  # who may read need not be allowed to list
        return None
    except OSError as error:
        raise cannot_read(split_dir, error) from error


def _state_of(split_dir: str, file: str, num_bytes: int, listed: dict[str, int] | None) -> str:
    """What is wrong with the size of a shard, as far as its server tells; it shows again when it is fetched."""
    url = f"{split_dir}/{file}"
    if listed is not None and listed.get(file) == num_bytes:
        return ""
    try:
        # A hundred thousand Paths would take half a second.
        size = file_size(url) if "://" in url else os.stat(url).st_size  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return f"{url} is missing"
    except OSError as error:
        raise cannot_read(url, error) from error
    return f"{url} has {size} bytes instead of {num_bytes}" if size not in (None, num_bytes) else ""


def _read_marker(split_dir: str, shard: int, manifest: Manifest) -> Marker:
    url = f"{split_dir}/{marker_file(shard)}"
    marker = parse_marker(bytes(fetch(url)), url, shard)
    check_marker_in(marker, manifest, url)
    return marker


def _why_not(path: str, split: str) -> str:
    split_dir = f"{path}/{split}"
    try:
        if exists(f"{split_dir}/spec.json"):
            shards = sum(name.endswith(".json") for name in entries(f"{split_dir}/shards")[1])
            done = f"{counted(shards, 'shard')} done"
            return f"the cache {split_dir} is not finished ({done}); run the same `ci2p encode` again"
        if not exists(path):
            return f"--shards {path} does not exist; make it with `ci2p encode --out {path}`"
    except FileNotFoundError:  # no shards yet, or a server that lists nothing
        return f"the cache {split_dir} is not finished; run the same `ci2p encode` again"
    except OSError as error:
        raise cannot_read(split_dir, error) from error
    return f"--shards {path} holds no {split}/manifest.json, so it is no ci2p cache with a split {split!r}"
