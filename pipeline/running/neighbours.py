"""Which processes of a machine train together, found through torch's process group."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed

from ci2p_cache.neighbours import Neighbours
from pipeline.running.launched import launched_as
from pipeline.running.peers import peer_timeout


@contextmanager
def neighbours(world_size: int) -> Iterator[Neighbours | None]:
    """This machine's of `world_size` processes that are in a group already, all of which call this alike.

    None for one process alone, or one a machine.
    """
    launched = launched_as()
    is_together = launched.world_size == world_size > 1 and torch.distributed.is_initialized()
    if not is_together or launched.local_world_size == 1:
        yield None
        return
    # By gloo, whatever the default group speaks: what is said is objects. Of a machine alone, whose processes may have
    # more to say than those of another.
    make_groups: Any = torch.distributed.new_subgroups
    own, every = make_groups(group_size=launched.local_world_size, timeout=peer_timeout(), backend="gloo")

    def exchange(found: Any) -> list[Any]:
        gathered = [None] * launched.local_world_size
        torch.distributed.all_gather_object(gathered, found, group=own)
        return gathered

    try:
        yield Neighbours(launched.local_rank, launched.local_world_size, exchange)
    finally:
        for group in every:
            torch.distributed.destroy_process_group(group)
