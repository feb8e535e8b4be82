"""Reading latents in random order, ours beside its peers in one run: views/s, median and range over the rounds.

    python benchmarks/reading.py --shards caches/folder [--tars caches/folder-tars] [--data-dir IMAGES] [--mds-python P]

One process, one core (torch, Blosc and our reader with one thread each), page cache warm, batches of 256; ours once
more with two threads, and as users have it: `Cache.loader`, and `Cache.dataset` in torch's DataLoader. The limit is
Blosc decompressing the same views, with nothing around it. Peers: zarr-python's own indexing, a view, a batch or a
whole shard at a time, and by its fused pipeline where it has one (3.3 and newer); plain webdataset on our tars, and
holding one compressed view a sample, in order and through a shuffle buffer; LMDB and MDS holding one compressed view
each (LMDB where `lmdb` is installed, MDS in the interpreter that --mds-python names: see reading_mds.py); PIL decoding,
cropping at random and normalising the images, as they are and enlarged to 465 x 395, about ImageNet's mean. Prints a
table and, with --json, writes the figures.
"""

import argparse
import io
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import webdataset
import zarr
from commands import command_line, machine
from numcodecs import Blosc
from numpy.typing import NDArray
from PIL import Image
from rounds import measure, shares_of

import ci2p
from ci2p_cache.cache import Cache, open_cache
from ci2p_cache.codecs import stored_dtype, unpack
from ci2p_cache.loader import BatchLoader
from ci2p_cache.marker import read_marker
from ci2p_cache.publish import publish
from ci2p_cache.reader import ViewReader
from ci2p_cache.resident import load_resident
from ci2p_cache.shard_file import ShardFile, read_rows
from ci2p_cache.tar_store import images_of_records
from pipeline.encode.datasets import open_dataset

OURS = "ours, random order"
_IMAGES = 200  # whose files PIL decodes over and over, from memory
_MEAN, _STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
BATCH = 256
_FUSED = "FusedCodecPipeline"  # zarr's from 3.3 on, beside its default


def random_views(cache: Cache) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Positions and views of batch after batch."""
    rng = np.random.default_rng(0)
    while True:
        positions = cache.positions[rng.integers(cache.num_samples, size=BATCH)]
        yield positions, rng.integers(len(cache.spec.views), size=BATCH)


def ours(path: str, threads: int = 1, reader_class: type[ViewReader] = ViewReader) -> Iterator[int]:
    """Random views straight from the shards, a reused batch."""
    cache = open_cache(path, "train")
    reader = reader_class(cache.split_dir, cache.manifest, workers=threads)
    out = None
    for positions, views in random_views(cache):
        out = reader.read(positions, views, out)
        yield BATCH


def api_loader(path: str) -> Iterator[int]:
    """Batches of floats with their labels, straight from the shards, decoded by one thread."""
    loader = ci2p.open(path).loader(batch_size=BATCH, workers=1, resident="off")
    for epoch in itertools.count():
        for _, labels in loader.epoch(epoch):
            yield len(labels)


def api_dataset(path: str) -> Iterator[int]:
    """The same through torch's own DataLoader, in this process."""
    dataset = ci2p.open(path).dataset()
    for epoch in itertools.count():
        dataset.set_epoch(epoch)
        for _, labels in torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True):
            yield len(labels)


class Unchecked(ViewReader):
    """Takes every view for what it was written as."""

    def _load(self, number: int) -> ShardFile:
        shard = super()._load(number)
        return replace(shard, checksums=None, behind=0, sizes=shard.sizes - shard.behind, checked=None)


class AlwaysChecked(ViewReader):
    """Checks a view whenever it is read, as ours does the first time."""

    def _load(self, number: int) -> ShardFile:
        return replace(super()._load(number), checked=None)


def checksum_shares(path: str, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Which share of the time that reading takes is that of the checksums, round by round."""
    return {
        when: shares_of(ours(path, reader_class=reader), ours(path, reader_class=Unchecked), rounds, seconds)
        for when, reader in {"the first time": AlwaysChecked, "from then on": ViewReader}.items()
    }


def decompressing(path: str) -> Iterator[int]:
    """The same views from bytes in memory: what is left of `ours` when finding them costs nothing."""
    cache = open_cache(path, "train")
    out = np.empty((BATCH, *cache.spec.latent_shape), dtype=stored_dtype(cache.spec.store))
    buffers = dict(zip(cache.positions.tolist(), image_buffers(cache), strict=True))
    decode = Blosc().decode
    for positions, views in random_views(cache):
        chosen = [buffers[position][view] for position, view in zip(positions.tolist(), views.tolist(), strict=True)]
        for buffer, row in zip(chosen, out, strict=True):
            decode(buffer, row)
        yield BATCH


def ours_resident(path: str) -> Iterator[int]:
    """Integers as they travel to the device, from memory."""
    cache = open_cache(path, "train")
    resident = load_resident(cache, ViewReader(cache.split_dir, cache.manifest), torch.device("cpu"))
    for positions, views in random_views(cache):
        resident.index_select(0, torch.from_numpy(positions * len(cache.spec.views) + views))
        yield BATCH


def ours_resident_floats(path: str) -> Iterator[int]:
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
    for begin in itertools.cycle(range(0, array.shape[0], size)):
        views = array[begin : begin + size]
        yield len(views) * array.shape[1]


def zarr_batches(path: str, fused: bool = False) -> Iterator[int]:
    """All views of as many images as make a batch, drawn anew: so many can be asked for in one selection."""
    pipeline = {"codec_pipeline.path": f"zarr.core.codec_pipeline.{_FUSED}"} if fused else {}
    with zarr.config.set(pipeline):
        array = zarr.open_group(f"{path}/train/latents.zarr", mode="r")["latents"]
        rng = np.random.default_rng(0)
        while True:
            images = np.sort(rng.choice(array.shape[0], BATCH // array.shape[1], replace=False))
            yield len(array.oindex[images]) * array.shape[1]


def plain_webdataset(path: str) -> Iterator[int]:
    cache = open_cache(path, "train")
    tars = sorted(map(str, Path(cache.split_dir).glob("*.tar")))
    while True:
        for sample in webdataset.WebDataset(tars, shardshuffle=False).compose(images_of_records(cache.spec)):
            yield len(sample["latents"])


def single_buffers(path: str) -> Iterator[bytes]:
    """The cache's own buffers, one view each, image after image."""
    for buffers in image_buffers(open_cache(path, "train")):
        yield from buffers


def image_buffers(cache: Cache) -> Iterator[list[bytes]]:
    """The buffers of all views of each stored image, in the order of the positions."""
    for shard in range(len(cache.manifest.shards)):
        marker = read_marker(Path(cache.split_dir), shard)
        assert marker is not None
        yield from (row for row in read_rows(Path(cache.split_dir), cache.spec, marker) if row is not None)


def webdataset_of_views(path: str, shuffle: int = 0) -> Iterator[int]:
    """One compressed view a sample, 2,000 a tar, decoded one by one."""
    decode = Blosc().decode
    with tempfile.TemporaryDirectory() as folder:
        with webdataset.ShardWriter(f"{folder}/%06d.tar", maxcount=2000, verbose=0) as writer:
            for number, buffer in enumerate(single_buffers(path)):
                writer.write({"__key__": f"{number:08d}", "view": buffer, "cls": b"0"})
        tars = sorted(map(str, Path(folder).glob("*.tar")))
        while True:
            samples = webdataset.WebDataset(tars, shardshuffle=len(tars) if shuffle else False)
            for sample in samples.shuffle(shuffle) if shuffle else samples:
                decode(sample["view"])
                yield 1


def lmdb_of_views(path: str) -> Iterator[int]:
    """One compressed view a key, decoded as ours are into a reused batch."""
    import lmdb

    cache = open_cache(path, "train")
    with tempfile.TemporaryDirectory() as folder:
        environment = lmdb.open(folder, map_size=4 * cache.manifest.bytes_total + 2**24, lock=False, sync=False)
        with environment.begin(write=True) as transaction:
            for number, buffer in enumerate(single_buffers(path)):
                transaction.put(f"{number:08d}".encode(), buffer)
        num_views = cache.num_samples * len(cache.spec.views)
        rng = np.random.default_rng(0)
        out = np.empty((BATCH, *cache.spec.latent_shape), dtype=stored_dtype(cache.spec.store))
        with environment.begin(buffers=True) as transaction:
            while True:
                for row, number in zip(out, rng.integers(num_views, size=BATCH).tolist(), strict=True):
                    unpack(transaction.get(f"{number:08d}".encode()), row, cache.spec.store)
                yield BATCH


def pil(data_dir: str, size: tuple[int, int] | None = None) -> Iterator[int]:
    """What a training from images does for each, as its files are or enlarged to `size` beforehand."""
    split = open_dataset("folder", data_dir, splits=["train"], val_fraction=None, seed=0)["train"]
    rng = np.random.default_rng(0)
    files = [split.read_bytes(int(item)) for item in rng.permutation(len(split.keys))[:_IMAGES]]
    if size is not None:
        files = [enlarged(data, size) for data in files]
    while True:
        random_crop(files[int(rng.integers(len(files)))], rng)
        yield 1


def enlarged(data: bytes, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def random_crop(data: bytes, rng: np.random.Generator) -> NDArray[np.float32]:
    """float32 [3, 256, 256], normalised, from 8 to 100 % of the picture (Szegedy et al.'s augmentation)."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    area = image.width * image.height * rng.uniform(0.08, 1)
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    width, height = min(image.width, (area * ratio) ** 0.5), min(image.height, (area / ratio) ** 0.5)
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    box = (left, top, left + width, top + height)
    pixels = np.asarray(image.resize((256, 256), Image.Resampling.BILINEAR, box), dtype=np.float32)
    normalised: NDArray[np.float32] = (pixels / 255 - _MEAN) / _STD
    return normalised.transpose(2, 0, 1)


def mds_of_views(path: str, python: str, rounds: int, seconds: float) -> list[float]:
    """Rates of MDS, by the interpreter that has it."""
    with tempfile.TemporaryDirectory() as folder:
        buffers = list(single_buffers(path))
        (Path(folder) / "buffers.bin").write_bytes(b"".join(buffers))
        np.save(Path(folder) / "sizes.npy", [len(buffer) for buffer in buffers])
        command = [python, Path(__file__).with_name("reading_mds.py"), folder]
        command += ["--rounds", rounds, "--seconds", seconds]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"--mds-python {python}\n{done.stderr}")
    rates: list[float] = json.loads(done.stdout.splitlines()[-1])
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", required=True, help="a zarr cache")
    parser.add_argument("--tars", help="a webdataset cache")
    parser.add_argument("--data-dir", help="the images that --shards was made of")
    parser.add_argument("--mds-python", help="an interpreter that has mosaicml-streaming")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="per round")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shards, tars, images = arguments.shards, arguments.tars, arguments.data_dir
    has_fused = hasattr(import_module("zarr.core.codec_pipeline"), _FUSED)
    sources = {
        OURS: (ours, shards),
        "ours, tars": (ours, tars),
        "ours, two threads": (partial(ours, threads=2), shards),
        "ours, resident, integers": (ours_resident, shards),
        "ours, resident, floats": (ours_resident_floats, shards),
        "ours, Cache.loader, floats": (api_loader, shards),
        "ours, Cache.dataset, DataLoader": (api_dataset, shards),
        "limit: decompressing alone": (decompressing, shards),
        "zarr-python, one view at a time": (zarr_one_by_one, shards),
        "zarr-python, a shard at a time": (zarr_shard_by_shard, shards),
        "zarr-python, a batch at a time": (zarr_batches, shards),
        "zarr-python, a batch, fused": (partial(zarr_batches, fused=True), shards if has_fused else None),
        "webdataset, our tars, in order": (plain_webdataset, tars),
        "webdataset, a view a sample, in order": (webdataset_of_views, shards),
        "webdataset, a view a sample, shuffled": (partial(webdataset_of_views, shuffle=1000), shards),
        "LMDB, a view a key": (lmdb_of_views, shards if find_spec("lmdb") else None),
        "PIL: random crops": (pil, images),
        "PIL: random crops of 465 x 395": (partial(pil, size=(465, 395)), images),
    }
    rates = {
        name: measure(source, path, arguments.rounds, arguments.seconds)
        for name, (source, path) in sources.items()
        if path
    }
    if arguments.mds_python:
        rates["MDS, a view a sample, shuffled"] = mds_of_views(
            shards, arguments.mds_python, arguments.rounds, arguments.seconds
        )
    base = statistics.median(rates[OURS])
    print(f"{machine()}; one core, batches of {BATCH}, {arguments.rounds} rounds")
    print(f"{'':<38}{'views/s':>10}{'range':>18}   ours is")
    for name, values in rates.items():
        median = statistics.median(values)
        spread = f"{min(values):.0f}-{max(values):.0f}"
        print(f"{name:<38}{median:>10.0f}{spread:>18}   {base / median:.2f}x")
    shares = checksum_shares(shards, arguments.rounds, arguments.seconds)
    for when, each in shares.items():
        middle, least, most = 100 * statistics.median(each), 100 * min(each), 100 * max(each)
        print(f"of ours in random order, checksums take {middle:.1f} % ({least:.1f} to {most:.1f}), {when}")
    if arguments.json:
        result = {"command": command_line(), "machine": machine(), "views_per_s": rates, "checksum_shares": shares}
        publish(arguments.json, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
