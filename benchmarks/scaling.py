"""What a cache costs as it grows: opening, the first batch of an epoch, resuming in its middle, reading, memory.

    python benchmarks/scaling.py [--work DIR] [--json FILE]

Simulated: one shard of 1,024 drawn images with two views each, linked as often as the number of images asks for, so
that a million images take no disk. Latents are rounded Laplacians, each channel of its own width, of about the size of
real ones. Reading therefore comes from the page cache; what grows is the bookkeeping. Every size in a process of its
own, medians over --rounds.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from commands import command_line, machine

from ci2p_cache import codecs
from ci2p_cache.cache import open_cache
from ci2p_cache.loader import BatchLoader
from ci2p_cache.manifest import make_manifest, table_files, write_manifest
from ci2p_cache.marker import Marker, read_marker
from ci2p_cache.publish import publish
from ci2p_cache.reader import ViewReader
from ci2p_cache.seals import seal_of
from ci2p_cache.shard import ShardContents, write_shard
from ci2p_cache.spec import CacheSpec
from ci2p_cache.zarr_store import shard_file

SIZES = (1_000, 10_000, 100_000, 1_280_000)
SHARD_SIZE = 1024
BATCH = 256
_READ_BATCHES = 40


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
    markers = []
    for shard in range(-(-num_images // SHARD_SIZE)):
        record = marker.record.model_copy(update={"file": shard_file(shard)})
        target = cache / "train" / record.file
        target.parent.mkdir(parents=True)
        os.link(one / marker.record.file, target)
        markers.append(marker.model_copy(update={"shard": shard, "record": record}))
    classes = tuple(map(str, range(1000)))
    sealed = ((each, seal_of(b"")) for each in markers)
    manifest = make_manifest(simulated_spec(), classes, SHARD_SIZE * len(markers), sealed, left_out=())
    tables = table_files(manifest)
    for name, parts in tables.items():
        publish(cache / "train" / name, *parts)
    files = {name: seal_of(*parts) for name, parts in tables.items()}
    write_manifest(cache / "train", manifest.model_copy(update={"files": files}))


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


def measure(path: str, rounds: int) -> dict[str, float]:
    torch.set_num_threads(1)
    memory_before = private_memory_kib()
    opening = seconds_of(lambda: open_cache(path, "train"), rounds)
    cache = open_cache(path, "train")
    loader = BatchLoader(cache, batch_size=BATCH, resident="off")
    middle = loader.steps_per_epoch // 2
    first = seconds_of(lambda: next(loader.epoch(0)), rounds)
    resumed = seconds_of(lambda: next(loader.epoch(1, middle)), rounds)
    reader = ViewReader(cache.split_dir, cache.manifest)
    rng = np.random.default_rng(0)
    out = None

    def read() -> None:
        nonlocal out
        for _ in range(_READ_BATCHES):
            positions = rng.integers(cache.num_samples, size=BATCH)
            out = reader.read(positions, rng.integers(len(cache.spec.views), size=BATCH), out)

    read()  # maps the shards
    reading = seconds_of(read, rounds)
    return {
        "num_views": cache.num_samples * len(cache.spec.views),
        "open_s": opening,
        "first_batch_s": first,
        "resume_s": resumed,
        "views_per_s": _READ_BATCHES * BATCH / reading,
        "memory_mib": (private_memory_kib() - memory_before) / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="where the simulated caches go for the time being")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        one = Path(folder) / "one"
        marker = write_shard_of(one)
        print(f"{machine()}; simulated, {marker.record.bytes / SHARD_SIZE / 2:,.0f} bytes a view")
        print(f"{'views':>10}{'open':>12}{'first batch':>14}{'resume':>12}{'views/s':>10}{'memory':>12}")
        for size in SIZES:
            cache = Path(folder) / str(size)
            write_cache(cache, one, marker, size)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                figures = pool.apply(measure, (str(cache), arguments.rounds))
            found.append(figures)
            times = "".join(
                f"{1000 * figures[name]:>{width}.1f}" + " ms"
                for name, width in (("open_s", 9), ("first_batch_s", 11), ("resume_s", 9))
            )
            print(f"{figures['num_views']:>10}{times}{figures['views_per_s']:>10.0f}{figures['memory_mib']:>8.0f} MiB")
    if arguments.json:
        result = {"command": command_line(), "machine": machine(), "sizes": found}
        publish(arguments.json, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
