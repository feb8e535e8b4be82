"""What a training has fetched of a remote cache, machine by machine."""

import os

from ci2p_cache.traffic import Traffic
from pipeline.running.launched import Launched, gather


def fetched_by_machine(mine: Traffic, launched: Launched) -> tuple[tuple[int, ...], float]:
    """(bytes that each machine fetched, the longest that any process waited in s).

    All processes call it together. Of machines torchrun says which is which.
    """
    machine = int(os.environ.get("GROUP_RANK", launched.rank // launched.local_world_size))
    shares = gather((machine, mine), launched)
    num_bytes: dict[int, int] = {}
    for number, each in shares:
        num_bytes[number] = num_bytes.get(number, 0) + each.num_bytes
    return tuple(num_bytes[number] for number in sorted(num_bytes)), max(each.stalled_s for _, each in shares)
