"""Four tries of every kind of storm; `make storm` makes as many as one likes."""

import pytest

from tests.storm.kind import Kind, Outcomes, try_out
from tests.storm.kinds import KINDS


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_four_tries(kind: Kind) -> None:
    outcomes = Outcomes(kind)
    for outcomes in try_out(kind, range(4), seed=0):
        assert not outcomes.broken, f"python -m tests.storm --kind {kind.name} --tries 4: {outcomes.broken}"
    assert outcomes.num_tries == 4
