"""Reading latents in random order, ours beside its peers in one run: views/s, median and range over the rounds.

    python benchmarks/reading.py --shards caches/folder [--tars caches/folder-tars] [--data-dir IMAGES]

One process, one core (torch, Blosc and our reader with one thread each), page cache warm, batches of 256; ours once
more with two threads. Peers: zarr-python's own indexing, one view at a time and a whole shard at a time; plain
webdataset with our decoder; LMDB holding the very same buffers, one view each, where `lmdb` is installed (the extra
`bench`); PIL decoding, resizing and cropping the images. Prints a table and, with --json, writes the figures.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import webdataset
import zarr

from ci2p_cache.cache import open_cache
from ci2p_cache.codecs import stored_dtype, unpack
from ci2p_cache.loader import BatchLoader
from ci2p_cache.reader import ViewReader
from ci2p_cache.tar_store import latent_decoder
from pipeline.encode.datasets.folder import open_folder
from pipeline.encode.preprocess import load_pixels, preprocessing

BATCH = 256


def ours(path: str, threads: int = 1) -> Iterator[int]:
    """Random views straight from the shards, a reused batch."""
    cache = open_cache(path, "train")
    reader = ViewReader(cache.split_dir, cache.manifest, workers=threads)
    rng = np.random.default_rng(0)
    out = None
    while True:
        positions = cache.positions[rng.integers(cache.num_samples, size=BATCH)]
        out = reader.read(positions, rng.integers(len(cache.spec.views), size=BATCH), out)
        yield BATCH


def ours_resident(path: str) -> Iterator[int]:
    """Whole loader with the cache in memory, floating point included."""
    loader = BatchLoader(open_cache(path, "train"), batch_size=BATCH, resident="cpu")
    for epoch in itertools.count():
        for batch in loader.epoch(epoch):
            yield len(batch.labels)


def zarr_one_by_one(path: str) -> Iterator[int]:
    array = zarr.open_group(f"{path}/train/latents.zarr", mode="r")["latents"]
    rng = np.random.default_rng(0)
    while True:
        array[int(rng.integers(array.shape[0])), int(rng.integers(array.shape[1]))]
        yield 1


def zarr_shard_by_shard(path: str) -> Iterator[int]:
    array = zarr.open_group(f"{path}/train/latents.zarr", mode="r")["latents"]
    size = array.shards[0]
    for shard in itertools.cycle(range(array.shape[0] // size)):
        array[shard * size : (shard + 1) * size]
        yield size * array.shape[1]


def plain_webdataset(path: str) -> Iterator[int]:
    cache = open_cache(path, "train")
    tars = sorted(map(str, Path(cache.split_dir).glob("*.tar")))
    while True:
        for sample in webdataset.WebDataset(tars, shardshuffle=False).decode(latent_decoder(cache.spec)):
            yield len(sample["latents"])


def lmdb_of_views(path: str) -> Iterator[int]:
    """The cache's own buffers under LMDB's keys, decoded as ours are into a reused batch."""
    import lmdb

    cache = open_cache(path, "train")
    reader = ViewReader(cache.split_dir, cache.manifest)
    num_views = len(cache.spec.views)
    with tempfile.TemporaryDirectory() as folder:
        environment = lmdb.open(folder, map_size=4 * cache.manifest.bytes_total + 2**24, lock=False, sync=False)
        with environment.begin(write=True) as transaction:
            for position in cache.positions.tolist():
                for view, buffer in enumerate(reader.buffers(position)):
                    transaction.put(f"{position}/{view}".encode(), buffer)
        rng = np.random.default_rng(0)
        out = np.empty((BATCH, *cache.spec.latent_shape), dtype=stored_dtype(cache.spec.store))
        with environment.begin(buffers=True) as transaction:
            while True:
                positions = cache.positions[rng.integers(cache.num_samples, size=BATCH)].tolist()
                for row, position in enumerate(positions):
                    buffer = transaction.get(f"{position}/{rng.integers(num_views)}".encode())
                    unpack(buffer, out[row], cache.spec.store)
                yield BATCH


def pil(data_dir: str) -> Iterator[int]:
    split = open_folder(data_dir, ["train"], None, 0)["train"]
    how = preprocessing()
    rng = np.random.default_rng(0)
    while True:
        load_pixels(split.read_bytes(int(rng.integers(len(split.keys)))), how)
        yield 1


def measure(source: Callable[[str], Iterator[int]], path: str, rounds: int, seconds: float) -> list[float]:
    """Views/s of each round, after one round to warm up."""
    views = source(path)
    rates = []
    for _ in range(rounds + 1):
        begin, done = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            done += next(views)
        rates.append(done / (time.perf_counter() - begin))
    return rates[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", required=True, help="a zarr cache")
    parser.add_argument("--tars", help="a webdataset cache")
    parser.add_argument("--data-dir", help="the images that --shards was made of")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="per round")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sources = {
        "ours, random order, zarr": (ours, arguments.shards),
        "ours, random order, tars": (ours, arguments.tars),
        "ours, zarr, two threads": (partial(ours, threads=2), arguments.shards),
        "ours, resident": (ours_resident, arguments.shards),
        "zarr-python, one view at a time": (zarr_one_by_one, arguments.shards),
        "zarr-python, a shard at a time": (zarr_shard_by_shard, arguments.shards),
        "plain webdataset, in order": (plain_webdataset, arguments.tars),
        "LMDB, random order": (lmdb_of_views, arguments.shards if find_spec("lmdb") else None),
        "PIL: decode, resize, crop": (pil, arguments.data_dir),
    }
    rates = {
        name: measure(source, path, arguments.rounds, arguments.seconds)
        for name, (source, path) in sources.items()
        if path
    }
    base = statistics.median(rates["ours, random order, zarr"])
    print(f"{'':<34}{'views/s':>10}{'range':>18}   ours is")
    for name, values in rates.items():
        median = statistics.median(values)
        spread = f"{min(values):.0f}-{max(values):.0f}"
        print(f"{name:<34}{median:>10.0f}{spread:>18}   {base / median:.1f}x")
    if arguments.json:
        arguments.json.write_text(json.dumps(rates, indent=1) + "\n")


if __name__ == "__main__":
    main()
