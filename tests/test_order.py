"""order: promises T1 and T2, and alternating flip."""

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from ci2p_cache import order
from ci2p_cache.permutation import keys_of, permuted


def epoch_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The whole of it, which only tests and benchmarks want."""
    return order.epoch_samples(np.arange(num_samples), num_samples, seed, epoch)


@pytest.mark.parametrize("num_samples", [1, 2, 17, 1000])
def test_t1_an_order_is_a_permutation_and_a_function_of_seed_and_epoch(num_samples: int) -> None:
    first = epoch_order(num_samples, seed=3, epoch=5)
    assert sorted(first.tolist()) == list(range(num_samples))
    assert np.array_equal(first, epoch_order(num_samples, seed=3, epoch=5))
    if num_samples > 2:
        assert not np.array_equal(first, epoch_order(num_samples, seed=3, epoch=6))
        assert not np.array_equal(first, epoch_order(num_samples, seed=4, epoch=5))


def test_t1_golden_order() -> None:
    """What a resumed run relies on; another order is another ORDER_VERSION."""
    assert epoch_order(10, seed=0, epoch=0).tolist() == GOLDEN_ORDER
    assert order.view_choice(np.arange(10), 2, seed=0, epoch=0).tolist() == GOLDEN_VIEWS


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
def test_t2_a_global_batch_has_the_same_members_whatever_the_ranks(world_size: int) -> None:
    epoch = epoch_order(100, seed=0, epoch=1)
    steps = order.steps_per_epoch(100, 12)
    assert steps == 8
    for step in range(steps):
        batch = epoch[order.batch_places(step, 12, 100)]
        parts = [order.rank_slice(batch, rank, world_size) for rank in range(world_size)]
        assert sorted(np.concatenate(parts).tolist()) == sorted(epoch[12 * step : 12 * step + 12].tolist())
        assert {len(part) for part in parts} == {12 // world_size}


def test_every_view_is_seen_once_in_as_many_epochs() -> None:
    for num_views in (1, 2, 6):
        views = np.stack(
            [order.view_choice(np.arange(50), num_views, seed=1, epoch=epoch) for epoch in range(num_views)]
        )
        assert all(sorted(column.tolist()) == list(range(num_views)) for column in views.T)
    coins = order.view_choice(np.arange(10_000), 2, seed=1, epoch=0)
    assert 4_800 < coins.sum() < 5_200


def test_a_data_set_smaller_than_a_batch_makes_one_short_step() -> None:
    assert order.steps_per_epoch(5, 8) == 1
    assert order.batch_places(0, 8, 5).tolist() == [0, 1, 2, 3, 4]


def test_t1_a_part_of_an_order_is_what_the_whole_has_there() -> None:
    """Of any length: nothing but the places that are asked for is computed."""
    whole = epoch_order(1000, 3, 5)
    places = np.array([999, 0, 17, 17])
    assert np.array_equal(order.epoch_samples(places, 1000, 3, 5), whole[places])
    for num_samples in (10**8, 2**40 + 1, 2**62 - 1):
        samples = order.epoch_samples(np.arange(num_samples - 1000, num_samples), num_samples, 3, 5)
        assert len({*samples.tolist()}) == 1000 and 0 <= samples.min() < samples.max() < num_samples
        assert abs(samples.astype(float).mean() / num_samples - 0.5) < 0.05


def test_every_permutation_is_as_likely_as_any_other() -> None:
    """All 120 of five samples, each drawn 100 times in the mean: chi-square of 119 degrees of freedom is 119 +- 15."""
    drawings = np.repeat(np.arange(12_000), 5)
    orders = permuted(np.tile(np.arange(5), 12_000), 5, keys_of(1, 0, 0), drawings).reshape(-1, 5)
    seen = Counter(map(tuple, orders.tolist()))
    assert len(seen) == 120 and sum((count - 100) ** 2 / 100 for count in seen.values()) < 119 + 4 * 15


@pytest.mark.parametrize("size", [2, 3, 97, 4096])
def test_where_a_sample_comes_is_drawn_anew_every_epoch(size: int) -> None:
    """No sample keeps its place, its distance to a neighbour or its neighbour more often than chance has it."""
    orders = np.stack([epoch_order(size, 7, epoch) for epoch in range(64)])
    assert (np.sort(orders, axis=1) == np.arange(size)).all()
    by_chance = 63  # of 64 epochs, each has one of `size` samples where the one before had it, in the mean
    for kept in (np.diff(orders, axis=0) == 0, np.diff(np.diff(orders, axis=1) % size, axis=0) == 0):
        assert abs(kept.sum() - by_chance * kept.shape[1] / size) < 5 * np.sqrt(by_chance) + 1


def test_permutations_of_other_sizes_and_tweaks_are_computed_at_once() -> None:
    keys, sizes = keys_of(1, 2), np.array([5, 1, 9, 9])
    places = np.concatenate([np.arange(size) for size in sizes])
    together = permuted(places, np.repeat(sizes, sizes), keys, np.repeat(np.arange(4), sizes))
    parts = np.split(together, np.cumsum(sizes)[:-1])
    assert [sorted(part.tolist()) for part in parts] == [list(range(size)) for size in sizes]
    assert np.array_equal(parts[0], permuted(np.arange(5), 5, keys))
    assert not np.array_equal(parts[2], parts[3])


GOLDEN_ORDER = [3, 1, 9, 6, 2, 4, 5, 0, 8, 7]
GOLDEN_VIEWS = [1, 0, 0, 0, 1, 1, 0, 0, 0, 1]
