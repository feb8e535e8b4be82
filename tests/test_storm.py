"""A few tries of every kind of storm; `make storm` makes as many as one likes."""

import pytest

from tests.storm import kills
from tests.storm.kind import Kind, Outcomes, try_out
from tests.storm.kinds import KINDS


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_a_few_tries(kind: Kind) -> None:
    tries = 2 if kind in kills.KINDS else 4  # those start processes, up to four a try
    outcomes = Outcomes(kind)
    for outcomes in try_out(kind, range(tries), seed=0):
        assert not outcomes.broken, f"python -m tests.storm --kind {kind.name} --tries {tries}: {outcomes.broken}"
    assert outcomes.num_tries == tries
