"""A hundred million strings are sorted, taken and planned a part at a time: with small parts here."""

import hashlib
import pickle

import numpy as np
import pytest

from ci2p_cache import packed_strings, plan, scratch
from ci2p_cache.packed_strings import PackedStrings
from pipeline.encode.resume import ShardWork, WorkBatches


@pytest.fixture
def strings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """More than one part of everything holds, with some that are there again; what is large lies in files."""
    monkeypatch.setattr(packed_strings, "_AT_ONCE", 7)
    monkeypatch.setattr(packed_strings, "_SORTED_AT_ONCE", 50)
    monkeypatch.setattr(plan, "_SORTED_AT_ONCE", 64)
    monkeypatch.setattr(scratch, "LARGE_BYTES", 100)
    rng = np.random.default_rng(1)
    letters = np.array([*"abé/\U0001f600"])
    return ["".join(rng.choice(letters, rng.integers(9))) for _ in range(600)]


def test_many_strings_are_sorted_and_taken(strings: list[str]) -> None:
    packed = PackedStrings(strings)
    assert isinstance(packed.block, memoryview) and packed == strings and list(packed) == strings
    order = packed.order()
    assert order.tolist() == sorted(range(600), key=strings.__getitem__)
    in_order = packed.take(order)
    assert in_order == sorted(strings) and in_order.is_ascending() and not packed.is_ascending()
    assert in_order.order().tolist() == list(range(600))
    repeated = in_order.first_repeated()
    assert repeated is not None and in_order[repeated] == in_order[repeated - 1]
    assert in_order[:repeated].first_repeated() is None
    assert pickle.loads(pickle.dumps(in_order)) == in_order != packed
    assert PackedStrings([]) == [] and len(PackedStrings([]).order()) == 0


def test_c1_many_are_planned_as_few(strings: list[str]) -> None:
    hashes = [hashlib.blake2b(f"3\t{key}".encode(), digest_size=8).digest() for key in strings]
    expected = sorted(range(600), key=lambda item: (hashes[item], item))
    assert plan.plan_order(strings, 3).tolist() == plan.plan_order(PackedStrings(strings), 3).tolist() == expected


def test_batches_of_work_cross_no_shard() -> None:
    work = [ShardWork(0, np.arange(10)), ShardWork(3, np.arange(20, 30), [22, 29]), ShardWork(4, np.array([7]))]
    batches = WorkBatches(work, 4)
    assert list(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [22, 29], [7]]
    assert [batches.work_of(number).shard for number in range(len(batches))] == [0, 0, 0, 3, 4]
    assert batches[-1] == [7] and batches[1:3] == [[4, 5, 6, 7], [8, 9]] and len(WorkBatches([], 4)) == 0
