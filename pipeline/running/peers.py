"""Peers: processes that train together; how they meet, how long one waits for another, what is said of a lost one."""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from ci2p_cache.errors import WorkError
from ci2p_cache.network_timeout import seconds_in
from pipeline.running.launched import Launched

TIMEOUT_VARIABLE = "CI2P_PEER_TIMEOUT"
_DEFAULT_TIMEOUT_S = 600.0
_LONGEST_S = 1e9


def peer_timeout() -> timedelta:
    """How long a process waits for another at any step. Raises InputError for what is no number of seconds."""
    return timedelta(seconds=min(seconds_in(TIMEOUT_VARIABLE, _DEFAULT_TIMEOUT_S), _LONGEST_S))


def meet(launched: Launched, device_type: str) -> None:
    """Makes the group of all processes that were launched, which Fabric then finds; nothing for one alone."""
    if launched.world_size == 1 or torch.distributed.is_initialized():
        return
    store = None
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        # torchrun's store outlives the processes that it starts again, with the addresses of the dead in it (pytorch
        # issue 135712). Of several machines the counts may differ: there it has to be told not to share its store.
        store = PrefixStore(
            f"ci2p/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}",
            TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), launched.world_size, is_master=False),
        )
    torch.distributed.init_process_group(
        "nccl" if device_type == "cuda" else "gloo",
        store=store,
        rank=launched.rank,
        world_size=launched.world_size,
        timeout=peer_timeout(),
    )
    if device_type == "cuda":
        atexit.register(torch.distributed.destroy_process_group)


@contextmanager
def lost_peers(launched: Launched) -> Iterator[None]:
    """Raises WorkError, a line, where torch says at length that a peer is gone or has not answered for too long."""
    try:
        yield
    except RuntimeError as error:
        if launched.world_size == 1 or not _is_of_peers(error):
            raise
        text = str(error)
        why = f"nothing came from it for {peer_timeout().total_seconds():g} s ({TIMEOUT_VARIABLE})"
        if "timed out" not in text.lower():
            why = "the connection to it broke"
        raise WorkError(
            f"process {launched.rank} of {launched.world_size} has lost another one: {why}; run the same command again "
            "to continue from the last checkpoint, or let torchrun --max-restarts do it"
        ) from error


def _is_of_peers(error: RuntimeError) -> bool:
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()
