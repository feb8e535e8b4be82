"""Which sample lies in which shard: a pure function of the item list, the seed and the shard size (promise C1)."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.packed_strings import PackedStrings
from ci2p_cache.scratch import scratch_array

_SORTED_AT_ONCE = 1 << 22  # hashes


def plan_order(keys: Sequence[str], seed: int) -> NDArray[np.int64]:
    """The order in which items are stored: position -> index into `keys`, int64 [N].

    Items are sorted by a hash of (seed, key), a shuffle that no library version, machine or worker count can change.
    Neither the keys nor, where there are many, the order is held in memory.
    """
    packed = keys if isinstance(keys, PackedStrings) else PackedStrings(keys)
    salt = f"{seed}\t".encode()
    hashes = scratch_array((len(packed),), np.uint64)
    begin = 0
    for chunk in packed.chunks():
        digests = b"".join([hashlib.blake2b(salt + key, digest_size=8).digest() for key in chunk])
        hashes[begin : begin + len(chunk)] = np.frombuffer(digests, ">u8")
        begin += len(chunk)
    order: NDArray[np.int64] = scratch_array((len(packed),), np.int64)
    # One range of hashes after another: a sort of them all would take four times their memory.
    num_ranges = -(-len(packed) // _SORTED_AT_ONCE)
    range_N = scratch_array((len(packed),), np.uint16)
    for begin in range(0, len(packed), _SORTED_AT_ONCE):
        part = hashes[begin : begin + _SORTED_AT_ONCE] >> np.uint64(32)
        range_N[begin : begin + _SORTED_AT_ONCE] = (part * np.uint64(num_ranges)) >> np.uint64(32)
    end = 0
    for number in range(num_ranges):
        items = np.flatnonzero(range_N == number)
        order[end : end + len(items)] = items[np.argsort(hashes[items], kind="stable")]
        end += len(items)
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
