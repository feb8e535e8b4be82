"""Processes that may be killed, in milliseconds instead of the seconds that importing torch takes.

Each is forked from a server that has imported what they need and computed nothing, so that nothing is inherited that a
fork would break.
"""

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ci2p_cache.errors import Ci2pError
from tests.forked import CONTEXT

_PATIENCE_S = 120
_STATUS_OF_ERROR = 3  # a Ci2pError or the system's: what a user would read in one line


def run_victim(
    work: Callable[..., None],
    *given: Any,
    kill_after_s: float | None = None,
    largest_file: int | None = None,
    memory: int | None = None,
) -> str:
    """Does `work(*given)` in a process of its own: "done", "killed", or the one line that it ended with.

    `largest_file` and `memory` are bytes, limits that the system holds it to: a disk that refuses, memory that is not
    there. Raises AssertionError for any other end: a traceback, a crash, a process that hangs.
    """
    receive, send = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_victim, args=(send, largest_file, memory, work, given))
    process.start()
    send.close()
    if kill_after_s is not None:
        process.join(kill_after_s)
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process.pid or 0), signal.SIGKILL)
    process.join(_PATIENCE_S)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"it hung for {_PATIENCE_S} s")
    said = ""
    with contextlib.suppress(EOFError):
        said = receive.recv()
    if process.exitcode == 0:
        return "done"
    if process.exitcode == -signal.SIGKILL and kill_after_s is not None:
        return "killed"
    assert process.exitcode == _STATUS_OF_ERROR, f"it ended with status {process.exitcode}: {said}"
    return said


def duration_of(work: Callable[..., None], *given: Any) -> float:
    """Seconds that `work` takes when nothing interferes."""
    begin = time.monotonic()
    assert run_victim(work, *given) == "done"
    return time.monotonic() - begin


def _victim(
    send: Any, largest_file: int | None, memory: int | None, work: Callable[..., None], given: tuple[Any, ...]
) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what it logs; what ends it goes through the pipe
    with _limits(largest_file, memory):
        try:
            work(*given)
        except (Ci2pError, OSError) as error:
            send.send(f"{type(error).__name__}: {error}")
            os._exit(_STATUS_OF_ERROR)
        except BaseException as error:
            send.send(f"{type(error).__name__}: {error}")
            raise


@contextlib.contextmanager
def _limits(largest_file: int | None, memory: int | None) -> Iterator[None]:
    for kind, limit in ((resource.RLIMIT_FSIZE, largest_file), (resource.RLIMIT_AS, memory)):
        if limit is not None:
            resource.setrlimit(kind, (limit, resource.RLIM_INFINITY))
    yield


def encode(images: Path, cache: Path, settings: dict[str, object]) -> None:
    """`ci2p encode` of a folder at 32 pixels."""
    import torch

    from tests.conftest import encode_folder

    torch.set_num_threads(1)
    encode_folder(images, cache, **settings)


def convert(source: Path, target: Path, format: str) -> None:
    """`ci2p convert` of all splits."""
    from ci2p_cache.convert import convert_split
    from ci2p_cache.verify import find_splits

    for split in find_splits(source):
        convert_split(source, target, split, format, None)


def train(run: Path) -> None:
    """A short training of a small model, with a checkpoint after every second step."""
    import torch

    from tests.toy_training import train_toy

    torch.set_num_threads(1)
    train_toy(run, checkpoint_every_steps=2)
