"""How well is a cache shuffled whose images arrived sorted by class? Class entropy of batches, and accuracy.

    python benchmarks/shuffling.py [--images 1281000] [--classes 1000] [--batch-size 256]
    python benchmarks/shuffling.py --shards caches/imagenette [--epochs 3] [--seeds 1]

The first: simulated labels, real orders. Entropy of the classes within a batch, in bits, mean over the batches of an
epoch; and how many of a sample's batch-mates it meets again in the next epoch, against what chance would give. The
second trains `ci2p_vit_tiny` by the recipe `quick` on a real cache, its training images arriving sorted by class and
coming in each of these orders. Peers: a full shuffle; shards in random order, read through a shuffle buffer; no
shuffling.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from commands import machine
from numpy.typing import NDArray

from ci2p_cache.loader import Batch
from ci2p_cache.order import (
    Shards,
    Windows,
    batch_places,
    epoch_samples,
    shard_windows,
    steps_per_epoch,
    view_choice,
    window_shards,
)
from ci2p_cache.plan import plan_order
from ci2p_cache.publish import publish
from ci2p_cache.reader import ViewReader
from pipeline.train.data import CacheData, Share, open_training_data
from pipeline.train.loop import train
from pipeline.train.recipe import load_recipe

Order = NDArray[np.int64]
Way = Callable[[int, int], Order]  # (number of images, epoch) -> the order of those that arrived sorted by class
_SHARD_SIZE, _OUR_SHARD_SIZE = 1000, 1024
_MODEL, _RECIPE = "ci2p_vit_tiny", "quick"


def drawn_anew(num_images: int, epoch: int) -> Order:
    return np.random.default_rng([9, epoch]).permutation(num_images)


def ours(num_images: int, epoch: int) -> Order:
    """Planned once, permuted every epoch."""
    planned = plan_order([f"{number:08d}" for number in range(num_images)], 0)
    return planned[epoch_samples(np.arange(num_images), num_images, 0, epoch)]


def ours_remote(num_images: int, epoch: int) -> Order:
    """Planned once, read through windows of shards that differ every epoch."""
    planned = plan_order([f"{number:08d}" for number in range(num_images)], 0)
    first_samples = np.append(np.arange(0, num_images, _OUR_SHARD_SIZE), num_images)
    shards = Shards(first_samples, window_shards(_OUR_SHARD_SIZE, 1))
    windows = Windows(shards, shard_windows(shards.num_shards, shards.window_shards, 0, epoch))
    return planned[windows.samples(np.arange(num_images), 0, epoch)]


def as_it_comes(num_images: int, epoch: int) -> Order:
    return np.arange(num_images)


def through_buffer(num_images: int, epoch: int, size: int, shard_size: int = _SHARD_SIZE) -> Order:
    """Shards in random order; a sample leaves the buffer at random and the next one takes its place."""
    rng = np.random.default_rng([7, epoch])
    shards = rng.permutation(-(-num_images // shard_size))
    stream = (shards[:, None] * shard_size + np.arange(shard_size)).ravel()
    stream = stream[stream < num_images]
    buffer, order = stream[:size].copy(), np.empty(num_images, np.int64)
    places = rng.integers(min(size, num_images), size=num_images)
    for step, arriving in enumerate(stream[size:]):
        order[step] = buffer[places[step]]
        buffer[places[step]] = arriving
    order[num_images - len(buffer) :] = rng.permutation(buffer)
    return order


def batches(order: Order, batch_size: int) -> Iterator[Order]:
    for start in range(0, len(order) - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def class_entropy(order: Order, labels: Order, batch_size: int) -> float:
    """Bits, mean over the batches."""
    found = []
    for batch in batches(order, batch_size):
        shares = np.unique(labels[batch], return_counts=True)[1] / batch_size
        found.append(float(-(shares * np.log2(shares)).sum()))
    return float(np.mean(found))


def repeated_mates(first: Order, second: Order, batch_size: int) -> float:
    """How often two samples of a batch meet again in the next epoch, 1 being chance."""
    batch_of = np.empty(len(first), np.int64)
    batch_of[second] = np.arange(len(second)) // batch_size
    pairs = sum(
        int((counts * (counts - 1)).sum())
        for counts in (np.unique(batch_of[batch], return_counts=True)[1] for batch in batches(first, batch_size))
    )
    all_pairs = (len(first) // batch_size) * batch_size * (batch_size - 1)
    return pairs / all_pairs * len(first) / batch_size


@dataclass(frozen=True)
class OrderedData(CacheData):
    """A cache whose training images come as `way` has them."""

    way: Way = ours

    def train_batches(self, share: Share, *, batch_size: int, seed: int, flip: bool) -> "OrderedBatches":
        return OrderedBatches(self, batch_size, seed)


@dataclass(frozen=True)
class OrderedBatches:
    data: OrderedData
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.data.num_train, self.batch_size)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        cache = self.data.train
        reader = ViewReader(cache.split_dir, cache.manifest)
        arrived = np.argsort(cache.labels, kind="stable")
        order = arrived[self.data.way(cache.num_samples, epoch)]
        for step in range(first_step, self.steps_per_epoch):
            samples = order[batch_places(step, self.batch_size, cache.num_samples)]
            views = view_choice(samples, len(cache.spec.views), self.seed, epoch)
            positions = cache.positions[samples]
            latents = torch.from_numpy(reader.read_latents(positions, views))
            yield Batch(latents, torch.from_numpy(cache.labels[samples]), positions)


def accuracy(shards: str, epochs: int, seeds: int) -> dict[str, dict[str, object]]:
    """Trains, prints top-1 of the last epoch for each order, and gives it by seed, in percent."""
    opened = open_training_data(shards)
    n = opened.num_train
    tenth, half = n // 10, n // 2
    ways: dict[str, Way] = {
        "drawn anew every time": drawn_anew,
        "ours": ours,
        f"buffer of {half:,}, half": partial(through_buffer, size=half, shard_size=tenth),
        f"buffer of {tenth:,}, a tenth": partial(through_buffer, size=tenth, shard_size=tenth),
        "not shuffled": as_it_comes,
    }
    classes = len(opened.classes)
    print(f"{n:,} images of {classes} classes, `{_MODEL}`, recipe `{_RECIPE}`, {epochs} epochs; {machine()}")
    print(f"{'order':<28}{'class entropy, bits':>20}{'top-1, %':>12}   by seed")
    found: dict[str, dict[str, object]] = {}
    for name, way in ways.items():
        data = OrderedData(opened.path, opened.train, opened.val, way=way)
        top1 = []
        for seed in range(seeds):
            recipe = load_recipe(_RECIPE, {"model": _MODEL, "epochs": epochs, "seed": seed})
            with tempfile.TemporaryDirectory() as folder:
                top1.append(100 * (train(recipe, data, Path(folder) / "run").final_top1 or 0.0))
        entropy = class_entropy(way(n, 0), np.sort(opened.train.labels), recipe.batch_size)
        by_seed = ", ".join(f"{value:.1f}" for value in top1)
        found[name] = {"class_entropy_bits": entropy, "top1": top1}
        print(f"{name:<28}{entropy:>20.3f}{statistics.fmean(top1):>12.1f}   {by_seed}", flush=True)
    return found


def entropies(n: int, num_classes: int, batch_size: int) -> dict[str, dict[str, float]]:
    """Prints entropy and repeated mates for each order, of simulated labels, and gives them."""
    labels = np.arange(n) * num_classes // n
    ways: dict[str, Way] = {
        "drawn anew every time": drawn_anew,
        "ours": ours,
        "ours, a remote cache": ours_remote,
        "buffer of 1,000": partial(through_buffer, size=1_000),
        "buffer of 10,000": partial(through_buffer, size=10_000),
        "buffer of 100,000": partial(through_buffer, size=100_000),
        "not shuffled": as_it_comes,
    }
    print(f"{n:,} images of {num_classes:,} classes, sorted by class; batches of {batch_size}")
    print(f"{'order':<24}{'class entropy, bits':>20}{'mates met again':>18}")
    found = {}
    for name, way in ways.items():
        first, second = way(n, 0), way(n, 1)
        entropy = class_entropy(first, labels, batch_size)
        mates = repeated_mates(first, second, batch_size)
        found[name] = {"class_entropy_bits": entropy, "mates_met_again": mates}
        print(f"{name:<24}{entropy:>20.3f}{mates:>17.1f}x")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_281_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--shards", help="a real cache to train on instead")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found: dict[str, Any] = (
        accuracy(arguments.shards, arguments.epochs, arguments.seeds)
        if arguments.shards
        else entropies(arguments.images, arguments.classes, arguments.batch_size)
    )
    if arguments.json:
        publish(arguments.json, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
