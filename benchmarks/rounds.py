"""Timing in rounds, for whatever yields how many views it has just read. Needs nothing but Python."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

Given = TypeVar("Given")


def measure(source: Callable[[Given], Iterator[int]], given: Given, rounds: int, seconds: float) -> list[float]:
    """Views/s of each round, after one round to warm up."""
    views = source(given)
    rates = []
    for _ in range(rounds + 1):
        begin, done = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            done += next(views)
        rates.append(done / (time.perf_counter() - begin))
    return rates[1:]
