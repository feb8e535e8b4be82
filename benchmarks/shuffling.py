"""How well is a cache shuffled whose images arrived sorted by class? Class entropy of batches, ours beside usual ways.

    python benchmarks/shuffling.py [--images 1281000] [--classes 1000] [--batch-size 256]

Simulated labels, real orders. Entropy of the classes within a batch, in bits, mean over the batches of an epoch; and
how many of a sample's batch-mates it meets again in the next epoch, against what chance would give. Peers: no
shuffling; shards of 1,000 in random order, read through a shuffle buffer, over images as they arrived.
"""

import argparse
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.order import epoch_order
from ci2p_cache.plan import plan_order

Order = NDArray[np.int64]
_SHARD_SIZE = 1000


def ours(num_images: int, epoch: int) -> Order:
    """Planned once, permuted every epoch."""
    planned = plan_order([f"{number:08d}" for number in range(num_images)], 0)
    return planned[epoch_order(num_images, 0, epoch)]


def as_it_comes(num_images: int, epoch: int) -> Order:
    return np.arange(num_images)


def through_buffer(num_images: int, epoch: int, size: int) -> Order:
    """Shards in random order; a sample leaves the buffer at random and the next one takes its place."""
    rng = np.random.default_rng([7, epoch])
    shards = rng.permutation(-(-num_images // _SHARD_SIZE))
    stream = (shards[:, None] * _SHARD_SIZE + np.arange(_SHARD_SIZE)).ravel()
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_281_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=256)
    arguments = parser.parse_args()
    n = arguments.images
    labels = np.arange(n) * arguments.classes // n
    ways = {
        "drawn anew every time": lambda epoch: np.random.default_rng([9, epoch]).permutation(n),
        "ours": lambda epoch: ours(n, epoch),
        "buffer of 1,000": lambda epoch: through_buffer(n, epoch, 1_000),
        "buffer of 10,000": lambda epoch: through_buffer(n, epoch, 10_000),
        "buffer of 100,000": lambda epoch: through_buffer(n, epoch, 100_000),
        "not shuffled": lambda epoch: as_it_comes(n, epoch),
    }
    print(f"{n:,} images of {arguments.classes:,} classes, sorted by class; batches of {arguments.batch_size}")
    print(f"{'order':<24}{'class entropy, bits':>20}{'mates met again':>18}")
    for name, way in ways.items():
        first, second = way(0), way(1)
        entropy = class_entropy(first, labels, arguments.batch_size)
        print(f"{name:<24}{entropy:>20.3f}{repeated_mates(first, second, arguments.batch_size):>17.1f}x")


if __name__ == "__main__":
    main()
