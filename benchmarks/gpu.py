"""Everything that is to be measured on a GPU, one section after another, in one command: about a quarter of an hour.

    python benchmarks/gpu.py --data-dir imagenette --work W [--models ci2p_vit_base,ci2p_vit_ds,vit_base_p32]
                             [--sections card,integers,steps,updates,precisions,encode,...] [--batches 128,256,1024]

card         copy bandwidth, and the rate of a matrix product by precision: what the other figures are shares of
integers     how many cached integers differ between the CPU's encoder and the GPU's, float32 and bfloat16
steps        whole training steps on a batch that lies on the device, eager, compiled, and as CUDA graphs: images/s,
             share of the product's rate, the host's own time, memory
updates      what a step does behind its gradients: AdamW fused and not, the average of the weights ours and timm's
precisions   steps again, eager, in float32, TF32 and bfloat16
encode       the encoder alone, from pixels to bytes, both on the host; then `ci2p encode` of DIR from files to shards:
             images/s, and how busy the card is meanwhile
feeding      steps again, from a cache held on the card, held in memory, or decompressed as it goes
pixels       steps of a pixel model from pictures in memory and from fresh crops, and of the first model with the
             encoder in every step
checkpoints  what share of a training's wall clock is neither steps nor evaluation

Prints each row as it is there, and writes all to --json after every section, so that a session that ends early loses
none. `--device cpu --models ci2p_vit_tiny --batches 16` rehearses it. Accuracies: `ci2p train` on the cache that
section `encode` leaves in W.
"""

import argparse
import json
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from commands import ci2p, command_line, cores, machine
from encoder_rate import encoder_rate
from step_rates import Row, held_batch, rates, update_times
from training import endless, matrix_rate, seconds_of

from ci2p_cache.publish import publish
from pipeline.baselines.on_the_fly import encode_on_the_fly
from pipeline.baselines.pixels import open_pixel_data
from pipeline.encode.encoder import load_encoder
from pipeline.encode.preprocess import load_pixels, preprocessing
from pipeline.encode.shard_writer import packing_threads
from pipeline.models import reads_pixels
from pipeline.running.tf32 import float32_products
from pipeline.train.data import Share, TrainingData, open_training_data

_ROUNDS = 10


def card(options: argparse.Namespace) -> Iterator[Row]:
    device = torch.device(options.device)
    is_gpu = device.type == "cuda"
    num_bytes = 2**31 if is_gpu else 2**24
    source = torch.empty(num_bytes, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    seconds = statistics.median(seconds_of(lambda: target.copy_(source), device) for _ in range(_ROUNDS))
    yield {"copy_GB_s": 2 * num_bytes / seconds / 1e9}
    for precision in ("bfloat16", "float32") + (("tf32",) if is_gpu else ()):
        yield {"product": precision, "TMAC_s": product_rate(options.device, precision) / 1e12}


def product_rate(device: str, precision: str) -> float:
    """Multiply-adds a second."""
    with float32_products(tf32=precision == "tf32"):
        return matrix_rate(torch.device(device), precision, _ROUNDS)


def integers(options: argparse.Namespace) -> Iterator[Row]:
    """Rounded to steps of 1, as caches are."""
    count = 64 if options.device.startswith("cuda") else 4
    files = [path for path in sorted(options.data_dir.rglob("*")) if path.is_file()][:count]
    pixels_B3SS = torch.from_numpy(np.stack([load_pixels(path.read_bytes(), preprocessing()) for path in files]))

    def rounded(device: str, precision: Any) -> torch.Tensor:
        encoder = load_encoder("bundled", device, precision)
        return torch.cat([encoder(part).cpu() for part in pixels_B3SS.split(16)]).round()

    theirs = rounded("cpu", "float32")
    for precision in ("float32", "bfloat16"):
        ours = rounded(options.device, precision)
        differ = (ours != theirs).float().mean()
        yield {
            "encoder": precision,
            "differ_percent": 100 * float(differ),
            "most_by": float((ours - theirs).abs().max()),
            "same_twice": torch.equal(ours, rounded(options.device, precision)),
        }


def steps(options: argparse.Namespace) -> Iterator[Row]:
    peak = product_rate(options.device, options.precision)
    for name in options.models:
        for batch_size in options.batches:
            # CUDA graphs spare the host's time, which counts where a step is short.
            graphs = ("reduce-overhead",) if batch_size == min(options.batches) else ()
            for compiled in (False, True, *graphs):
                one = held_batch(name, batch_size, options)
                yield {"model": name, "batch": batch_size, "compiled": compiled} | rates(
                    name, batch_size, compiled, one, options, peak
                )


def updates(options: argparse.Namespace) -> Iterator[Row]:
    for name in options.models:
        for update, seconds in update_times(name, torch.device(options.device), _ROUNDS).items():
            yield {"model": name, "update": update, "ms": 1e3 * seconds}


def precisions(options: argparse.Namespace) -> Iterator[Row]:
    name, batch_size = options.models[0], min(options.batches)
    for precision in ("float32", "bfloat16") + (("tf32",) if options.device.startswith("cuda") else ()):
        chosen = argparse.Namespace(**{**vars(options), "precision": precision})
        peak = product_rate(options.device, precision)
        found = rates(name, batch_size, False, held_batch(name, batch_size, chosen), chosen, peak)
        yield {"precision": precision, "model": name, "batch": batch_size} | found


def feeding(options: argparse.Namespace) -> Iterator[Row]:
    cache, _ = encoded(options)
    name, batch_size = options.models[0], min(256, max(options.batches))
    peak = product_rate(options.device, options.precision)
    held = ("off", "cpu") + (("cuda",) if options.device.startswith("cuda") else ())
    for resident in (None, *held):
        if resident is None:
            batches = held_batch(name, batch_size, options)
        else:
            data = open_training_data(str(cache), workers=min(8, cores()), resident=resident)
            share = Share(0, 1, torch.device(options.device))
            batches = endless(data.train_batches(share, batch_size=batch_size, seed=0, flip=True))
        found = rates(name, batch_size, True, batches, options, peak)
        yield {"resident": resident or "one batch, no loader", "model": name, "batch": batch_size} | found


def pixels(options: argparse.Namespace) -> Iterator[Row]:
    batch_size = min(256, max(options.batches))
    peak = product_rate(options.device, options.precision)
    share = Share(0, 1, torch.device(options.device))
    of_pixels = next(filter(reads_pixels, options.models), "vit_tiny_p32")
    images = ("folder", str(options.data_dir))
    for name in (of_pixels, options.models[0]):
        rows: dict[str, TrainingData | None] = {"one batch, no loader": None}
        for crops in ("none", "fresh"):
            shown = open_pixel_data(*images, workers=cores(), image_size=options.image_size, crops=crops)
            where = "fresh crops" if crops == "fresh" else "in memory"
            rows[where] = shown if name == of_pixels else encode_on_the_fly(shown)
        for where, data in rows.items():
            batches = held_batch(name, batch_size, options)
            if data is not None:
                batches = endless(data.train_batches(share, batch_size=batch_size, seed=0, flip=True))
            found = rates(name, batch_size, True, batches, options, peak)
            yield {"pixels": where, "model": name, "batch": batch_size} | found


def encode(options: argparse.Namespace) -> Iterator[Row]:
    for precision in ("float32", "bfloat16"):
        rate = encoder_rate(options.device, precision, options.image_size, _ROUNDS)  # type: ignore[arg-type]
        yield {"encoder alone": precision, "views_s": rate}
    with gpu_use() as use:
        _, report = encoded(options)
    num_images, seconds = (sum(split[key] for split in report.values()) for key in ("num_encoded", "seconds"))
    row = {
        "images": num_images,
        "seconds": seconds,
        "images_s": num_images / seconds,
        "cores": cores(),
        "packers": packing_threads(),
    }
    yield row | ({"gpu_busy_percent": statistics.mean(use)} if use else {})


def checkpoints(options: argparse.Namespace) -> Iterator[Row]:
    """By the usual clock, which four epochs do not reach: the last one is what is waited for; and one after another."""
    cache, _ = encoded(options)
    for minutes in (10, 0.001):
        run, report = (options.work / f"{name}-{minutes}" for name in ("run", "train"))
        begin = time.perf_counter()
        ci2p(
            *("train", "--shards", cache, "--model", options.models[0], "--epochs", 4, "--out", run),
            *("--device", options.device, "--precision", options.precision),
            *("--set", f"checkpoint_every_minutes={minutes}"),
            report=report,
            threads=cores(),
        )
        wall = time.perf_counter() - begin
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        seconds = {"wall_s": wall, "epochs_s": sum(line["seconds"] for line in lines)}
        yield {"every_min": minutes} | seconds | {"checkpoint_MB": (run / "last.ckpt").stat().st_size / 1e6}


def encoded(options: argparse.Namespace) -> tuple[Path, Row]:
    """The cache of --data-dir, made once, and what its encoding measured."""
    cache = options.work / "cache"
    arguments = ("encode", "--dataset", "folder", "--data-dir", options.data_dir, "--out", cache)
    arguments = (*arguments, "--image-size", options.image_size, "--device", options.device)
    return cache, ci2p(*arguments, report=options.work / "encode.json", threads=cores())


@contextmanager
def gpu_use() -> Iterator[list[float]]:
    """How busy the first card is, in per cent, once a second; nothing where nvidia-smi is not."""
    seen: list[float] = []
    ended = threading.Event()
    question = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]

    def watch() -> None:
        while not ended.wait(1):
            try:
                seen.append(float(subprocess.run(question, capture_output=True, text=True, check=True).stdout))
            except (OSError, subprocess.CalledProcessError, ValueError):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


SECTIONS = {
    each.__name__: each for each in (card, integers, steps, updates, precisions, encode, feeding, pixels, checkpoints)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="DIR/train/CLASS/x.jpg and DIR/val/CLASS/x.jpg")
    parser.add_argument("--work", type=Path, required=True, help="for the cache and the run")
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--models", default="ci2p_vit_base,ci2p_vit_ds,vit_base_p32")
    parser.add_argument("--batches", default="128,256,1024")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--precision", choices=["float32", "tf32", "bfloat16"], default="bfloat16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=30, help="a lap")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.models = options.models.split(",")
    options.batches = [int(size) for size in options.batches.split(",")]
    options.work.mkdir(parents=True, exist_ok=True)
    result: Row = {"command": command_line(), "machine": machine()}
    print(result["machine"], flush=True)
    for name in options.sections.split(","):
        rows = result[name] = []
        for row in SECTIONS[name](options):
            rows.append(row)
            shown = (
                f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in row.items()
            )
            print(name, *shown, flush=True)
        if options.json:
            publish(options.json, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
