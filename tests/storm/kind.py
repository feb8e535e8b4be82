"""A kind of storm: what is done, what is promised, and the outcomes of its tries."""

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Broken(AssertionError):
    """A promise that did not hold."""


@dataclass(frozen=True)
class Kind:
    """`prepare` makes in a folder what all tries start from, and `attempt` does one of them in an empty folder.

    An attempt returns in a word or two what came of it, all of which are right, and raises Broken (or anything) when
    the promise did not hold.
    """

    name: str
    what: str
    promise: str
    prepare: Callable[[Path], Any]
    attempt: Callable[[Any, random.Random, Path], str]


@dataclass
class Outcomes:
    """What came of the tries of a kind."""

    kind: Kind
    counts: Counter[str] = field(default_factory=Counter)
    broken: dict[int, str] = field(default_factory=dict)
    """Number of a try -> what was wrong."""

    @property
    def num_tries(self) -> int:
        return self.counts.total() + len(self.broken)


def try_out(kind: Kind, numbers: range, seed: int) -> Iterator[Outcomes]:
    """Makes the tries of these numbers, and yields after each what came of all so far."""
    outcomes = Outcomes(kind)
    with tempfile.TemporaryDirectory(prefix="ci2p-storm-") as root:
        home = Path(root) / "prepared"
        home.mkdir()
        prepared = kind.prepare(home)
        for number in numbers:
            rng = random.Random(f"{seed}/{kind.name}/{number}")
            with tempfile.TemporaryDirectory(dir=root) as scratch:
                try:
                    outcomes.counts[kind.attempt(prepared, rng, Path(scratch))] += 1
                except Exception as error:  # noqa: BLE001  (whatever it is, it is a try that went wrong)
                    said = str(error).splitlines() or [""]
                    outcomes.broken[number] = f"{type(error).__name__}: {said[0][:300]}"
            yield outcomes
