"""What a cache costs as it grows: planning, opening, the first batch of an epoch, resuming in it, reading, memory.

    python benchmarks/scaling.py [--work DIR] [--sizes 1000 1000000 100000000] [--json FILE]

Simulated: one shard of 1,024 drawn images with two views each, linked as often as the number of images asks for, so
that a hundred million images take 2 GB of folders. Latents are rounded Laplacians, each channel of its own width, of
about the size of real ones. Reading therefore comes from the page cache; what grows is the bookkeeping. Every size in a
process of its own, medians over --rounds; reading in turns with a cache of a million images, as ratios of processor
time, for the machine may have other work. What is planned has keys and labels like a table's, and is planned as `ci2p
encode` does, up to the first image that it would read.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from commands import command_line, machine

from ci2p_cache import codecs
from ci2p_cache.cache import open_cache
from ci2p_cache.items import ItemList, write_item_list
from ci2p_cache.loader import BatchLoader
from ci2p_cache.manifest import Manifest, table_files, write_manifest
from ci2p_cache.marker import Marker, read_marker
from ci2p_cache.packed_strings import PackedStrings
from ci2p_cache.plan import plan_order
from ci2p_cache.publish import publish
from ci2p_cache.reader import ViewReader
from ci2p_cache.scratch import taken
from ci2p_cache.seals import FileSeal, seal_of
from ci2p_cache.shard import ShardContents, write_shard
from ci2p_cache.shard_table import ROW, ShardTable, row_of
from ci2p_cache.spec import CacheSpec, hash_items
from ci2p_cache.stored_labels import StoredLabels, checksum_of
from ci2p_cache.zarr_store import shard_file
from pipeline.encode.datasets.split import Stamp, sorted_split
from pipeline.encode.resume import find_work

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
BESIDE = 1_000_000  # images of the cache that reading is compared with
SHARD_SIZE = 1024
BATCH = 256
CLASSES = tuple(map(str, range(1000)))
_READ_BATCHES = 40
_MOST_LINKS = 60_000  # of one file: ext4 has room for 65,000


def simulated_spec() -> CacheSpec:
    return CacheSpec(
        dataset="simulated",
        split="train",
        items_sha256="0" * 64,
        image_size=256,
        short_edge=292,
        resize_mode="crop",
        encoder="simulated",
        weights_sha256="0" * 64,
        views=("plain", "mirror"),
        format="zarr",
        store="int",
        step=1.0,
        shard_size=SHARD_SIZE,
        seed=0,
    )


def simulated_row(rng: np.random.Generator, spec: CacheSpec) -> list[bytes]:
    """Buffers of an image's views."""
    shape = (len(spec.views), *spec.latent_shape)
    scales = np.geomspace(0.1, 2.0, shape[1])[:, None, None]
    latents = rng.laplace(size=shape, scale=scales).astype(np.float32)
    integers = codecs.quantise(latents, spec.store, spec.step)
    return [codecs.pack(codecs.zigzag(view), spec.store) for view in integers]


def write_shard_of(root: Path) -> Marker:
    """The one shard that all sizes link to."""
    spec = simulated_spec()
    rng = np.random.default_rng(0)
    rows = [simulated_row(rng, spec) for _ in range(SHARD_SIZE)]
    keys = [f"{number:07d}" for number in range(SHARD_SIZE)]
    labels = [number % 1000 for number in range(SHARD_SIZE)]
    write_shard(root, spec, 0, ShardContents(keys, labels, rows, [], (0.0, 0.0), {}))
    marker = read_marker(root, 0)
    assert marker is not None
    return marker


def write_cache(cache: Path, one: Path, marker: Marker, num_images: int) -> None:
    """A cache of `num_images`, rounded up to whole shards."""
    num_shards = -(-num_images // SHARD_SIZE)
    file = one / marker.record.file
    for shard in range(num_shards):
        if shard % _MOST_LINKS == 0:
            file = shutil.copy(one / marker.record.file, one / f"copy-{num_images}-{shard}")
        target = cache / "train" / shard_file(shard)
        target.parent.mkdir(parents=True)
        os.link(file, target)
    rows = np.zeros(num_shards, ROW)
    rows[:] = row_of(marker.record, FileSeal("0" * 64, 0), checksum_of(np.array(marker.labels)))
    table = ShardTable(rows, "zarr")
    spec, labels = simulated_spec(), np.tile(np.array(marker.labels, np.int32), num_shards)
    manifest = Manifest(
        spec=spec,
        spec_id=spec.spec_id,
        classes=list(CLASSES),
        num_items=len(labels),
        num_images=len(labels),
        num_views=2 * len(labels),
        num_failed=0,
        bytes_total=num_shards * marker.record.bytes,
        value_range=(0.0, 0.0),
        failures=[],
        recorded=[],
        shards=table,
        labels=StoredLabels(labels, table, SHARD_SIZE, len(CLASSES), str(cache)),
    )
    tables = table_files(manifest)
    for name, parts in tables.items():
        publish(cache / "train" / name, *parts)
    files = {name: seal_of(*parts) for name, parts in tables.items()}
    write_manifest(cache / "train", manifest.model_copy(update={"files": files}))


class NoImages:
    """A table of images that nobody reads."""

    def read(self, row: int) -> bytes:
        raise FileNotFoundError

    def stamp(self, row: int) -> Stamp:
        raise FileNotFoundError


def plan(folder: str, num_images: int) -> dict[str, float]:
    """Everything that `ci2p encode` does of a data set that it has listed before it reads the first image."""
    keys = PackedStrings(f"part-{number // 10_000:05d}/{number % 10_000:04d}" for number in range(num_images))
    labels = np.arange(num_images, dtype=np.int32) % len(CLASSES)
    split_dir = Path(folder) / "train"
    with Watched() as watched:
        split = sorted_split(CLASSES, keys, labels, NoImages())
        hash_items(split.keys, split.labels, split.classes)
        order = plan_order(split.keys, 0)
        planned_labels = taken(split.labels, order, np.int32)
        write_item_list(split_dir, ItemList(split.classes, split.keys.take(order), planned_labels))
        work = find_work(split, simulated_spec(), split_dir, order=order)
        assert len(work) == -(-num_images // SHARD_SIZE)
    written = sum(path.stat().st_size for path in (split_dir / "items").iterdir())
    return {
        "planning_s": watched.seconds,
        "planning_processor_s": watched.processor_seconds,
        "planning_memory_mib": watched.most_kib / 1024,
        "list_bytes": written,
    }


@dataclass
class Watched:
    """How long something takes, and the most private memory that the process has meanwhile, looked at every 50 ms."""

    seconds: float = 0.0
    processor_seconds: float = 0.0
    most_kib: int = 0
    _done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Watched":
        self.seconds, self.processor_seconds = -time.perf_counter(), -time.process_time()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds += time.perf_counter()
        self.processor_seconds += time.process_time()
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.05):
            self.most_kib = max(self.most_kib, private_memory_kib())


def seconds_of(function: Callable[[], object], rounds: int) -> float:
    """The median."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def private_memory_kib() -> int:
    """Of this process alone: pages of mapped shards belong to the page cache, and go when others need the room."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def measure(path: str, beside: str, rounds: int) -> dict[str, float]:
    torch.set_num_threads(1)
    memory_before = private_memory_kib()
    opening = seconds_of(lambda: open_cache(path, "train"), rounds)
    cache = open_cache(path, "train")
    memory_open = private_memory_kib()
    middle = cache.num_samples // BATCH // 2

    def begin(first_step: int) -> object:
        """In an epoch, with nothing mapped yet."""
        return next(BatchLoader(cache, batch_size=BATCH, resident="off").epoch(0, first_step))

    first = seconds_of(lambda: begin(0), rounds)
    resumed = seconds_of(lambda: begin(middle), rounds)
    other = open_cache(beside, "train")
    readers = [ViewReader(each.split_dir, each.manifest) for each in (cache, other)]
    rng = np.random.default_rng(0)
    out = None

    def read(reader: ViewReader, num_samples: int) -> float:
        """Views a second of processor time."""
        nonlocal out
        begin = time.process_time()
        for _ in range(_READ_BATCHES):
            out = reader.read(rng.integers(num_samples, size=BATCH), rng.integers(2, size=BATCH), out)
        return _READ_BATCHES * BATCH / (time.process_time() - begin)

    rates = [
        [read(reader, each.num_samples) for reader, each in zip(readers, (cache, other), strict=True)]
        for _ in range(rounds + 1)
    ][1:]
    return {
        "num_images": cache.num_samples,
        "open_s": opening,
        "open_memory_mib": (memory_open - memory_before) / 1024,
        "first_batch_s": first,
        "resume_s": resumed,
        "views_per_s": statistics.median(mine for mine, _ in rates),
        "ratio": statistics.median(mine / theirs for mine, theirs in rates),
        "memory_mib": (private_memory_kib() - memory_before) / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="where the simulated caches go for the time being")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        one = Path(folder) / "one"
        marker = write_shard_of(one)
        print(f"{machine()}; simulated, {marker.record.bytes / SHARD_SIZE / 2:,.0f} bytes a view")
        print(
            f"{'images':>11}{'planned':>10}{'(processor)':>13}{'memory':>10}{'open':>10}{'memory':>10}"
            f"{'first batch':>13}{'resume':>10}{'views/s':>9}{'ratio':>7}{'memory':>10}"
        )
        beside = Path(folder) / "beside"
        write_cache(beside, one, marker, BESIDE)
        for size in arguments.sizes:
            with spawn.Pool(1) as pool:
                planned = pool.apply(plan, (str(Path(folder) / "planned"), size))
            shutil.rmtree(Path(folder) / "planned")
            cache = Path(folder) / str(size)
            write_cache(cache, one, marker, size)
            with spawn.Pool(1) as pool:
                figures = planned | pool.apply(measure, (str(cache), str(beside), arguments.rounds))
            shutil.rmtree(cache)
            found.append(figures)
            print(
                f"{size:>11,}{figures['planning_s']:>8.1f} s{figures['planning_processor_s']:>11.1f} s"
                f"{figures['planning_memory_mib']:>6.0f} MiB{1000 * figures['open_s']:>7.0f} ms"
                f"{figures['open_memory_mib']:>6.0f} MiB{1000 * figures['first_batch_s']:>10.0f} ms"
                f"{1000 * figures['resume_s']:>7.0f} ms{figures['views_per_s']:>9,.0f}{figures['ratio']:>7.2f}"
                f"{figures['memory_mib']:>6.0f} MiB",
                flush=True,
            )
    if arguments.json:
        result = {"command": command_line(), "machine": machine(), "sizes": found}
        publish(arguments.json, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
