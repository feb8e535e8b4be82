"""Which sample lies in which shard: a pure function of the item list, the seed and the shard size (promise C1)."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def plan_order(keys: Sequence[str], seed: int) -> NDArray[np.int64]:
    """The order in which items are stored: position -> index into `keys`, int64 [N].

    Items are sorted by a hash of (seed, key), a shuffle that no library version, machine or worker count can change.
    """
    salt = f"{seed}\t".encode()
    digests = np.array([hashlib.blake2b(salt + key.encode(), digest_size=8).digest() for key in keys], dtype="S8")
    # The digests may end in zero bytes, which numpy's bytes type drops: compare them as integers.
    hashes = np.frombuffer(digests.tobytes(), dtype=">u8")
    order: NDArray[np.int64] = np.lexsort((np.arange(len(keys)), hashes)).astype(np.int64)
    return order


def num_shards(num_items: int, shard_size: int) -> int:
    """How many shards the items fill; the last may be short."""
    return -(-num_items // shard_size)


def shard_positions(shard: int, num_items: int, shard_size: int) -> range:
    """The positions that shard number `shard` holds."""
    return range(shard * shard_size, min((shard + 1) * shard_size, num_items))


def shards_of_rank(num_items: int, shard_size: int, rank: int, world_size: int) -> range:
    """The shards that one of `world_size` encoding processes writes; what a shard holds does not depend on it."""
    return range(rank, num_shards(num_items, shard_size), world_size)
