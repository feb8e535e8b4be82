"""Timing in rounds, for whatever yields how many views it has just read. Needs nothing but Python."""

import statistics
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


def shares_of(first: Iterator[int], second: Iterator[int], rounds: int, seconds: float) -> list[float]:
    """By how much of its own the first one's time a view is above the second's, in each round.

    They take turns, each as often first as second, so that what is in the processor's cache already and whatever else
    the machine does befalls both; the processor's time counts, and of a round's turns the median.
    """
    shares = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        times: tuple[list[float], list[float]] = ([], [])
        while time.perf_counter() - begin < seconds:
            for number in (0, 1, 1, 0):
                times[number].append(_time_a_view((first, second)[number]))
        shares.append(1 - statistics.median(times[1]) / statistics.median(times[0]))
    return shares[1:]


def _time_a_view(views: Iterator[int]) -> float:
    begin = time.thread_time()
    done = next(views)
    return (time.thread_time() - begin) / done
