"""A remote cache read by 1, 2 and 4 processes of a machine: bytes fetched an epoch, waiting, order; and an ImageNet's.

    python benchmarks/streaming.py [--images 3072] [--epochs 3] [--work DIR] [--json FILE]

Drawn images in shards of 128 (see `scaling.py`), served over HTTP on loopback: each request waits for 20 ms and then
brings 40 MB/s, as a bucket may. Windows are of 512 images, so that an epoch goes through six. The processes read
batches of 256 in step, as ranks of a training do, and learn nothing.
"""

import argparse
import hashlib
import http.server
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from commands import command_line, machine
from scaling import simulated_row, simulated_spec

from ci2p_cache import order
from ci2p_cache.cache import open_cache
from ci2p_cache.disk_cache import LocalDisk
from ci2p_cache.loader import BatchLoader
from ci2p_cache.manifest import make_manifest, table_files, write_manifest
from ci2p_cache.marker import marker_file, read_marker
from ci2p_cache.publish import publish
from ci2p_cache.seals import seal_of
from ci2p_cache.shard import ShardContents, write_shard
from ci2p_cache.traffic import traffic

SHARD_SIZE = 128
WINDOW_IMAGES = 512
BATCH = 256
PROCESSES = (1, 2, 4)
_LATENCY_S = 0.02
_BYTES_S = 40e6
# ImageNet-1k, train and val; bytes a view of Imagenette at 256 pixels (docs/cache.md).
_IMAGENET = {"images": 1_281_167 + 50_000, "views": 2, "bytes_a_view": 7_888, "shard_size": 512}


def write_cache(split: Path, num_images: int) -> None:
    """A split of drawn images."""
    spec = simulated_spec().model_copy(update={"shard_size": SHARD_SIZE})
    rng = np.random.default_rng(0)
    sealed = []
    for shard in range(num_images // SHARD_SIZE):
        numbers = range(shard * SHARD_SIZE, (shard + 1) * SHARD_SIZE)
        rows = [simulated_row(rng, spec) for _ in numbers]
        keys, labels = [f"{number:07d}" for number in numbers], [number % 1000 for number in numbers]
        write_shard(split, spec, shard, ShardContents(keys, labels, rows, [], (0.0, 0.0), {}))
        marker = read_marker(split, shard)
        assert marker is not None
        sealed.append((marker, seal_of((split / marker_file(shard)).read_bytes())))
    manifest = make_manifest(spec, tuple(map(str, range(1000))), num_images, iter(sealed), left_out=())
    tables = table_files(manifest)
    for name, parts in tables.items():
        publish(split / name, *parts)
    files = {name: seal_of(*parts) for name, parts in tables.items()}
    write_manifest(split, manifest.model_copy(update={"files": files}))


class _Bucket(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, late and no faster than a bucket's."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        time.sleep(_LATENCY_S)
        super().do_GET()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        while part := source.read(1 << 18):
            outputfile.write(part)
            time.sleep(len(part) / _BYTES_S)


def serve(folder: str, port: Any) -> None:
    os.chdir(folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Bucket)
    port.send(server.server_port)
    server.serve_forever()


def read(url: str, rank: int, count: int, disk: LocalDisk | None, epochs: int, together: Any, results: Any) -> None:
    """One process: what it fetched and waited for, and which samples its batches were of, epoch by epoch."""
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)}
    order._WINDOW_IMAGES = WINDOW_IMAGES
    loader = BatchLoader(
        open_cache(url, "train", disk), batch_size=BATCH, rank=rank, world_size=count, resident="off", seed=1
    )
    for epoch in range(epochs):
        together.wait()
        before, begin = traffic(), time.perf_counter()
        positions = []
        for batch in loader.epoch(epoch):
            positions.append(batch.positions)
            together.wait()
        seconds = time.perf_counter() - begin
        results.put((epoch, rank, traffic() - before, seconds, np.stack(positions)))


def measure(url: str, count: int, disk: LocalDisk | None, epochs: int) -> list[dict[str, Any]]:
    """Of each epoch: bytes and files that the machine fetched, the longest waiting of a process, a digest of order."""
    context = multiprocessing.get_context("spawn")
    together, results = context.Barrier(count), context.SimpleQueue()
    processes = [
        context.Process(target=read, args=(url, rank, count, disk, epochs, together, results)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    found = [results.get() for _ in range(epochs * count)]
    for process in processes:
        process.join()
    figures = []
    for epoch in range(epochs):
        shares = sorted((each for each in found if each[0] == epoch), key=lambda each: each[1])
        # Sample i of a global batch is on rank i mod count.
        batches = np.stack([positions for *_, positions in shares], axis=-1)
        figures.append(
            {
                "files": sum(each.num_files for _, _, each, _, _ in shares),
                "bytes": sum(each.num_bytes for _, _, each, _, _ in shares),
                "stalls": max(each.num_stalls for _, _, each, _, _ in shares),
                "stalled_s": max(each.stalled_s for _, _, each, _, _ in shares),
                "seconds": max(seconds for _, _, _, seconds, _ in shares),
                "order": hashlib.sha256(batches.tobytes()).hexdigest()[:12],
            }
        )
    return figures


def imagenet() -> dict[str, float]:
    """An epoch of ImageNet on a machine with eight processes, by arithmetic: GB fetched, and requests."""
    one = _IMAGENET["images"] * _IMAGENET["views"] * _IMAGENET["bytes_a_view"] / 1e9
    shards = -(-_IMAGENET["images"] // _IMAGENET["shard_size"])
    return {"gb": one, "requests": shards, "gb_of_eight_alone": 8 * one, "requests_of_eight_alone": 8 * shards}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=3072)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where the cache goes for the time being")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        root = Path(folder)
        write_cache(root / "cache" / "train", arguments.images)
        stored = sum(
            path.stat().st_size for path in (root / "cache" / "train" / "latents.zarr").rglob("*") if path.is_file()
        )
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        server = context.Process(target=serve, args=(str(root), there), daemon=True)
        server.start()
        url = f"http://127.0.0.1:{here.recv()}/cache"
        print(f"{machine()}; {stored / 1e6:.1f} MB in {arguments.images // SHARD_SIZE} shards")
        print(f"{'processes':>9}  {'--cache-gb':10}{'MB fetched an epoch':>24}{'waited, s':>22}  order")
        for kept, most_bytes in (("none", 0), ("half", stored // 2), ("all", 10 * stored)):
            for count in PROCESSES:
                disk = LocalDisk(str(root / "kept"), most_bytes) if most_bytes else None
                epochs = measure(url, count, disk, arguments.epochs)
                rows.append({"processes": count, "kept": kept, "epochs": epochs})
                fetched = " ".join(f"{each['bytes'] / 1e6:.1f}" for each in epochs)
                waited = " ".join(f"{each['stalled_s']:.2f}" for each in epochs)
                print(f"{count:>9}  {kept:10}{fetched:>24}{waited:>22}  {' '.join(e['order'][:6] for e in epochs)}")
                shutil.rmtree(root / "kept", ignore_errors=True)
        server.terminate()
    orders = {tuple(each["order"] for each in row["epochs"]) for row in rows}
    print(f"orders: {'all the same' if len(orders) == 1 else 'DIFFERENT'}")
    whole = imagenet()
    print(
        f"ImageNet, 8 processes: {whole['gb']:.1f} GB in {whole['requests']:,.0f} requests an epoch until all is kept; "
        f"without --cache-dir {whole['gb_of_eight_alone']:.0f} GB in {whole['requests_of_eight_alone']:,.0f}"
    )
    if arguments.json:
        result = {"command": command_line(), "machine": machine(), "stored_bytes": stored, "rows": rows}
        publish(arguments.json, (json.dumps(result | {"imagenet": whole}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
