"""plan: promise C1."""

import inspect

import numpy as np

from ci2p_cache import plan

KEYS = [f"class{number % 7}/image{number:04d}" for number in range(500)]


def test_c1_the_plan_depends_on_keys_seed_and_shard_size_alone() -> None:
    assert list(inspect.signature(plan.plan_order).parameters) == ["keys", "seed"]
    order = plan.plan_order(KEYS, seed=0)
    assert sorted(order.tolist()) == list(range(500))
    assert np.array_equal(order, plan.plan_order(KEYS, seed=0))
    assert not np.array_equal(order, plan.plan_order(KEYS, seed=1))
    # The same items listed in another order are stored in the same one.
    listed_otherwise = KEYS[::-1]
    stored = [listed_otherwise[item] for item in plan.plan_order(listed_otherwise, seed=0)]
    assert stored == [KEYS[item] for item in order]


def test_c1_golden_plan() -> None:
    """A cache begun on one machine is finished on another: the plan must not depend on a library's version."""
    assert plan.plan_order([f"key{number}" for number in range(8)], seed=0).tolist() == GOLDEN_PLAN


def test_c1_every_number_of_ranks_covers_every_shard_once() -> None:
    for world_size in (1, 2, 3, 8, 100):
        shards = [s for rank in range(world_size) for s in plan.shards_of_rank(500, 64, rank, world_size)]
        assert sorted(shards) == list(range(plan.num_shards(500, 64)))
    positions = [p for shard in range(plan.num_shards(500, 64)) for p in plan.shard_positions(shard, 500, 64)]
    assert positions == list(range(500))


def test_the_plan_mixes_the_classes() -> None:
    """Items come sorted by class; a shard of 64 out of 500 must see all seven of them."""
    labels = np.array([int(key[5]) for key in sorted(KEYS)])
    first_shard = labels[plan.plan_order(sorted(KEYS), seed=0)[:64]]
    assert set(first_shard.tolist()) == set(range(7))


GOLDEN_PLAN = [7, 1, 4, 3, 6, 5, 2, 0]
