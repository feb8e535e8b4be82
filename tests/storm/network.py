"""A server of HTTP that fails: what is read of a cache through it is what was written, or one line names the fault."""

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ci2p_cache.errors import Ci2pError
from tests.fault_server import serve_faults
from tests.storm.damage import Caches, prepare_caches, read_everything
from tests.storm.kills import LAYOUTS
from tests.storm.kind import Broken, Kind

_LASTING = (
    *("status=500", "status=503", "status=429", "status=404", "status=403", "status=304", "status=206"),
    *("silence", "stall", "drip", "header_drip", "header", "headers", "endless", "cut", "badchunk", "short", "long"),
    *("negative", "loop", "onward", "elsewhere", "nonsense", "close", "gzip", "norange", "otherrange", "chunks"),
)
_PASSING = ("once=status-503", "once=status-500", "once=cut", "once=close", "once=silence", "once=stall")
_PATIENCE_S, _END_S = "0.3", 60.0


def _read_through_faults(prepared: Caches, rng: random.Random, scratch: Path) -> str:
    layout = rng.randrange(len(LAYOUTS))
    cache = prepared.caches[layout]
    files = [str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()]
    begin = time.monotonic()
    with serve_faults(cache) as server, _impatient():
        for name in rng.sample(files, rng.randint(1, 4)):
            server.faults[name] = rng.choice(_LASTING if rng.random() < 0.5 else _PASSING)
        done = ", ".join(f"{fault} of {name}" for name, fault in server.faults.items())
        try:
            same = read_everything(server.url) == prepared.values[layout]
        except Ci2pError as error:
            if server.url not in str(error) or "\n" in str(error):
                raise Broken(f"{done}: an error that names no address: {error}") from None
            outcome = "refused by name"
        else:
            if not same:
                raise Broken(f"{done}: other values are read in silence")
            outcome = "read as written"
    if time.monotonic() - begin > _END_S:
        raise Broken(f"{done}: it took {time.monotonic() - begin:.0f} s")
    return outcome


@contextmanager
def _impatient() -> Iterator[None]:
    before = os.environ.get("CI2P_NETWORK_TIMEOUT")
    os.environ["CI2P_NETWORK_TIMEOUT"] = _PATIENCE_S
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI2P_NETWORK_TIMEOUT"]
        else:
            os.environ["CI2P_NETWORK_TIMEOUT"] = before


KINDS = (
    Kind(
        "network",
        "a web server that fails (27 ways to, for good or once) with one to four files of a cache that is read from it",
        "the values that were written, or a line that names address and fault, within a minute",
        prepare_caches,
        _read_through_faults,
    ),
)
