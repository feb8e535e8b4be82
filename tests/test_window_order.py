"""The order in which a remote cache is read: promises T1 to T3, a window of shards after another."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ci2p_cache import order
from ci2p_cache.order import BatchOrder, Shards, Windows

# S shards, N samples


@st.composite
def layouts(draw: st.DrawFn) -> Shards:
    """Some shards are short, and some empty, because images failed."""
    counts = draw(st.lists(st.integers(0, 7), min_size=1, max_size=12).filter(any))
    return Shards(np.concatenate([[0], np.cumsum(counts)]), draw(st.integers(1, 13)))


def windows_of(shards: Shards, seed: int, epoch: int) -> Windows:
    return Windows(shards, order.shard_windows(shards.num_shards, shards.window_shards, seed, epoch))


def whole_order(windows: Windows, seed: int, epoch: int) -> NDArray[np.int64]:
    return windows.samples(np.arange(windows.shards.first_samples[-1]), seed, epoch)


def batch_order(layout: Shards, seed: int, **fields: object) -> BatchOrder:
    num_samples = int(layout.first_samples[-1])
    alone = BatchOrder(num_samples, 2, 4, seed, rank=0, world_size=1, shuffle=True, view=None, shards=layout)
    return replace(alone, **fields)


@given(layouts(), st.integers(0, 2**31), st.integers(0, 400))
def test_t1_the_order_is_a_permutation_that_goes_window_by_window(shards: Shards, seed: int, epoch: int) -> None:
    split = windows_of(shards, seed, epoch)
    window_S, samples = split.window_of_shard, whole_order(split, seed, epoch)
    assert sorted(samples.tolist()) == list(range(shards.first_samples[-1]))
    # Windows are as many shards as they should be, the last one what is left, and come one after another.
    assert sorted(window_S.tolist()) == [number // shards.window_shards for number in range(shards.num_shards)]
    windows = window_S[shards.of(samples)]
    assert (np.diff(windows) >= 0).all()
    # Both are functions of (seed, epoch), and a single window changes nothing.
    assert np.array_equal(window_S, order.shard_windows(shards.num_shards, shards.window_shards, seed, epoch))
    assert np.array_equal(samples, whole_order(windows_of(shards, seed, epoch), seed, epoch))
    if shards.window_shards >= shards.num_shards:
        assert np.array_equal(samples, order.epoch_samples(np.arange(len(samples)), len(samples), seed, epoch))


def test_t1_other_seeds_and_epochs_have_other_windows() -> None:
    drawn = [order.shard_windows(64, 16, seed, epoch).tolist() for seed in range(3) for epoch in range(3)]
    assert len({tuple(windows) for windows in drawn}) == 9
    windows = Windows(Shards(np.arange(0, 401, 100), 1), np.arange(4))
    orders = [whole_order(windows, 0, epoch).reshape(4, 100) for epoch in range(2)]
    assert not np.array_equal(*orders)
    # Within a window samples are as mixed as they can be: their places have no trend, and each window has its own.
    assert abs(np.corrcoef(orders[0][0], np.arange(100))[0, 1]) < 0.3
    assert not np.array_equal(orders[0][0], orders[0][1] - 100)


def test_t1_golden_windows() -> None:
    """Part of what a resumed run relies on; another order is another ORDER_VERSION."""
    windows = windows_of(Shards(np.arange(0, 17, 2), 3), seed=0, epoch=0)
    assert windows.window_of_shard.tolist() == GOLDEN_WINDOWS
    assert whole_order(windows, seed=0, epoch=0).tolist() == GOLDEN_ORDER


@given(layouts(), st.integers(0, 9), st.sampled_from([1, 2, 4]))
def test_t2_ranks_share_every_global_batch(shards: Shards, epoch: int, world_size: int) -> None:
    alone = list(batch_order(shards, 3).epoch(epoch))
    ranks = [list(batch_order(shards, 3, rank=r, world_size=world_size).epoch(epoch)) for r in range(world_size)]
    for (samples, views), *parts in zip(alone, *ranks, strict=True):
        together = sorted((s, v) for part in parts for s, v in zip(*map(np.ndarray.tolist, part), strict=True))
        assert together == sorted(zip(samples.tolist(), views.tolist(), strict=True))


@given(layouts(), st.integers(0, 9), st.booleans(), st.data())
def test_t3_an_epoch_resumes_at_any_step(shards: Shards, epoch: int, shuffle: bool, data: st.DataObject) -> None:
    batches = batch_order(shards, 5, shuffle=shuffle)
    whole = list(batches.epoch(epoch))
    first_step = data.draw(st.integers(0, len(whole)))
    rest = list(batches.epoch(epoch, first_step))
    assert len(whole) - first_step == len(rest)
    for resumed, kept in zip(rest, whole[first_step:], strict=True):
        assert all(map(np.array_equal, resumed, kept))


@given(layouts(), st.integers(0, 9), st.booleans())
def test_the_shards_to_hold_are_those_of_two_windows(shards: Shards, epoch: int, shuffle: bool) -> None:
    batches = batch_order(shards, 5, shuffle=shuffle)
    windows = batches.windows(epoch)
    assert windows is not None
    last = -1
    for samples, _ in batches.epoch(epoch):
        held = windows.ahead(samples)
        touched = windows.window_of_shard[shards.of(samples)]
        assert set(shards.of(samples)) <= set(held)
        assert (np.diff(windows.window_of_shard[held]) >= 0).all()
        spanned = touched.max() - touched.min() + 1
        assert len(held) <= shards.window_shards * max(2, spanned)
        assert touched.min() >= last  # windows that were left are not needed again
        last = touched.min()
    assert not len(windows.ahead(np.empty(0, np.int64)))


def test_other_caches_keep_the_order_that_they_have() -> None:
    shards = Shards(np.arange(0, 101, 4), 3)
    samples = [samples for samples, _ in batch_order(shards, 1, shards=None).epoch(2)]
    assert np.array_equal(np.concatenate(samples), order.epoch_samples(np.arange(100), 100, 1, 2))
    assert batch_order(shards, 1, shards=None).windows(2) is None


@pytest.mark.parametrize(
    ("shard_size", "shard_bytes", "expected"),
    [
        (1024, 18 * 2**20, 16),  # 16,384 images
        (1000, 18 * 2**20, 17),
        (1024, 200 * 2**20, 5),  # 1 GiB
        (100_000, 1, 1),
        (1024, 2**31, 1),
    ],
)
def test_a_window_holds_images_enough_unless_they_are_too_large(
    shard_size: int, shard_bytes: int, expected: int
) -> None:
    assert order.window_shards(shard_size, shard_bytes) == expected


GOLDEN_WINDOWS = [2, 2, 0, 1, 0, 1, 0, 1]
GOLDEN_ORDER = [8, 13, 5, 4, 9, 12, 15, 11, 10, 7, 14, 6, 2, 1, 3, 0]
