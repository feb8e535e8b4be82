"""What the benchmark of caching says of trainings: minutes to a level, cold and warm, and where the cache loses."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.benchmark_scripts import benchmark_script


@pytest.fixture(scope="module")
def cost() -> Iterator[Any]:
    with benchmark_script("caching_cost") as module:
        yield module


def lines(rate: float, *top1: float | None) -> list[dict[str, Any]]:
    """Of metrics.jsonl, 30 steps an epoch."""
    return [
        {"step": 30 * (epoch + 1), "images_per_s": rate, "val_top1": value, "seconds": 1e9}
        for epoch, value in enumerate(top1)
    ]


def test_minutes_are_those_of_steps_to_the_first_epoch_at_a_level(cost: Any) -> None:
    seed = cost.trained(lines(10.0, 0.5, None, 0.7, 0.65), 20)  # a minute an epoch
    assert seed.minutes == pytest.approx([1, 3, 4]) and seed.minutes_to(60) == pytest.approx(3)
    assert seed.minutes_to(71) is None


def test_the_rows_in_which_the_cache_loses_are_told(cost: Any) -> None:
    (cached_way, fly_way), _ = cost.pairs(8, "none")
    cached = cost.Found(cached_way, 5.0, [cost.trained(lines(20.0, 0.5, 0.61, 0.7), 20)] * 2)
    fly = cost.Found(fly_way, 0.0, [cost.trained(lines(5.0, 0.6, 0.69, 0.75), 20)] * 2)
    assert cost.lost(cached, fly, [60.0, 75.0]) == [
        f"| minutes to 60 %, cold | {cached_way.name} | 6.0 | 2.0 |",
        f"| minutes to 75 %, cold | {cached_way.name} | - | 6.0 |",
        f"| minutes to 75 %, warm | {cached_way.name} | - | 6.0 |",
        f"| last top-1, % | {cached_way.name} | 70.00 | 75.00 |",
    ]
    assert "by training 2 (5.0 minutes once, 1.5 each, against 6.0)" in cost.paid_back(cached, fly)
    assert cost.table([cached, fly], [60.0])[2:] == [
        f"| {cached_way.name} | 5.0 | 1.5 | 6.0 | 1.0 | 70.00 ± 0.00 | 2 |",
        f"| {fly_way.name} | 0.0 | 6.0 | 2.0 | 2.0 | 75.00 ± 0.00 | 2 |",
    ]
