"""order: promises T1 and T2, and alternating flip."""

import numpy as np
import pytest

from ci2p_cache import order


@pytest.mark.parametrize("num_samples", [1, 2, 17, 1000])
def test_t1_an_order_is_a_permutation_and_a_function_of_seed_and_epoch(num_samples: int) -> None:
    first = order.epoch_order(num_samples, seed=3, epoch=5)
    assert sorted(first.tolist()) == list(range(num_samples))
    assert np.array_equal(first, order.epoch_order(num_samples, seed=3, epoch=5))
    if num_samples > 2:
        assert not np.array_equal(first, order.epoch_order(num_samples, seed=3, epoch=6))
        assert not np.array_equal(first, order.epoch_order(num_samples, seed=4, epoch=5))


def test_t1_golden_order() -> None:
    """The order is part of what a resumed run relies on: a numpy that draws otherwise must be noticed."""
    assert order.epoch_order(10, seed=0, epoch=0).tolist() == GOLDEN_ORDER
    assert order.view_choice(10, 2, seed=0, epoch=0).tolist() == GOLDEN_VIEWS


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
def test_t2_a_global_batch_has_the_same_members_whatever_the_ranks(world_size: int) -> None:
    epoch = order.epoch_order(100, seed=0, epoch=1)
    steps = order.steps_per_epoch(100, 12)
    assert steps == 8
    for step in range(steps):
        batch = order.global_batch(epoch, step, 12)
        parts = [order.rank_slice(batch, rank, world_size) for rank in range(world_size)]
        assert sorted(np.concatenate(parts).tolist()) == sorted(epoch[12 * step : 12 * step + 12].tolist())
        assert {len(part) for part in parts} == {12 // world_size}


def test_every_view_is_seen_once_in_as_many_epochs() -> None:
    for num_views in (1, 2, 6):
        views = np.stack([order.view_choice(50, num_views, seed=1, epoch=epoch) for epoch in range(num_views)])
        assert all(sorted(column.tolist()) == list(range(num_views)) for column in views.T)
    coins = order.view_choice(10_000, 2, seed=1, epoch=0)
    assert 4_800 < coins.sum() < 5_200


def test_a_data_set_smaller_than_a_batch_makes_one_short_step() -> None:
    assert order.steps_per_epoch(5, 8) == 1
    assert len(order.global_batch(order.epoch_order(5, 0, 0), 0, 8)) == 5


GOLDEN_ORDER = [8, 4, 7, 0, 1, 2, 5, 9, 6, 3]
GOLDEN_VIEWS = [1, 0, 0, 0, 0, 1, 0, 0, 0, 1]
