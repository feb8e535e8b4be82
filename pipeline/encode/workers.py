"""Worker processes that compute the items of a data set ahead of their use, and what is said when one is lost."""

import logging
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ci2p_cache.errors import Ci2pError, WorkError
from ci2p_cache.free_memory import resident_limit_bytes
from pipeline.running import signals
from pipeline.running.cores import cores_of_process

logger = logging.getLogger("ci2p")

T = TypeVar("T")
SHARED_MEMORY = Path("/dev/shm")  # where Linux keeps what processes share
_HELD = 2  # items that the user of the iterator may still hold when the next ones are computed
_SHARE = 0.8  # of the free shared memory that is used; other programs want some too

_ENDING_S = 5.0  # how long a process that has closed its connection may take to end


def default_workers() -> int:
    """One decoding process a core that this process may use, 16 at most; of several processes, each takes its share."""
    return min(16, cores_of_process())


def compute_ahead(
    items: Dataset[T],
    count: int,
    *,
    workers: int,
    ahead: int,
    item_bytes: int,
    pin: bool,
    name: Callable[[int], str],
) -> Iterator[T]:
    """Yields items 0 to `count` - 1 in order, `ahead` of them computed by each of `workers` processes (0: by this one).

    `item_bytes` is what one item takes of memory, and of the shared memory through which it comes: where there is too
    little of either for all of them, fewer are computed ahead. `name` says for a message where an item's work begins.
    Raises WorkError when memory runs out, when a process is lost, and whatever Ci2pError an item raises; other errors
    come as they are.
    """
    workers, ahead = _within_memory(min(workers, count), ahead, item_bytes)
    loader: DataLoader[T | Ci2pError] = DataLoader(
        _Guarded(items, count),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=ahead if workers else None,
        pin_memory=pin,
        worker_init_fn=_end_by_parent_alone,
    )
    others = set(multiprocessing.active_children())
    iterator = _started(loader, workers)
    processes = set(multiprocessing.active_children()) - others
    for number in range(count):
        try:
            item = next(iterator)
        except (RuntimeError, OSError, EOFError, MemoryError) as error:
            explained = _explained(error, processes, name(number)) if workers else None
            if explained is None:
                raise
            raise explained from error
        if isinstance(item, Ci2pError):
            raise item
        yield item


def in_shared_memory(tensor: Tensor) -> Tensor:
    """The tensor; in a worker process, moved to where the process that started it can read it.

    Left to itself torch would move it when the item is sent, in a thread whose errors reach nobody: the run would wait
    for ever. Raises WorkError when there is no room.
    """
    if get_worker_info() is None:
        return tensor
    try:
        shared: Tensor = tensor.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        explained = _explained(error, set(), "")
        if explained is None:
            raise
        raise explained from error
    return shared


class _Guarded(Dataset[T | Ci2pError]):
    """Items, or the errors that a user can mend: raised in a worker, those would come with its traceback for a text."""

    def __init__(self, items: Dataset[T], count: int) -> None:
        self._items = items
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> T | Ci2pError:
        try:
            return self._items[number]
        except Ci2pError as error:
            return error
        except MemoryError:
            pass  # what the failed frames hold is let go before anything else is made
        return _short_of_memory()


def _within_memory(workers: int, ahead: int, item_bytes: int) -> tuple[int, int]:
    """(workers, ahead) for which there is room now; workers are given up last."""
    if not workers:
        return workers, ahead
    rooms = [("memory", resident_limit_bytes(), "fewer --workers take less")]
    if SHARED_MEMORY.is_dir():
        enlarge = "enlarge it for more (docker run --shm-size 2g)"
        rooms.append((str(SHARED_MEMORY), shutil.disk_usage(SHARED_MEMORY).free * _SHARE, enlarge))
    where, least, way_out = min(rooms, key=lambda room: room[1])
    room = int(least) // max(item_bytes, 1) - _HELD
    if workers * ahead <= room:
        return workers, ahead
    fewer = (workers, max(room // workers, 1)) if room >= workers else (max(room, 0), 1)
    logger.warning(
        "%s has %.0f MB for it, and what %d decoding processes do ahead takes %.0f MB: going on with %s; %s",
        where,
        least / 1e6,
        workers,
        (workers * ahead + _HELD) * item_bytes / 1e6,
        f"{fewer[0]}, each {fewer[1]} batches ahead" if fewer[0] else "none, and decoding in between",
        way_out,
    )
    return fewer


def _started(loader: DataLoader[T], workers: int) -> Iterator[T]:
    """The loader's iterator, without the handler of SIGCHLD that comes with it.

    That one raises wherever this process happens to be, as in the middle of writing a shard. A lost worker is noticed
    when the next item is fetched, too, if some seconds later.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if in_main_thread else None
    try:
        iterator = iter(loader)
    except (OSError, RuntimeError) as error:
        if not workers or (isinstance(error, RuntimeError) and "start new thread" not in str(error)):
            raise
        why = error.strerror if isinstance(error, OSError) else error
        raise WorkError(f"{workers} decoding processes could not be started: {why}; give fewer --workers") from error
    if before is not None:
        signal.signal(signal.SIGCHLD, before)
    return iterator


def _end_by_parent_alone(worker: int) -> None:
    """A signal to the whole job is for the process that wants the items, and may finish its work with them first.

    SIGTERM from that one, who ends what hangs by it, is obeyed; where the system does not say who sent it, from all.
    """
    signal.set_wakeup_fd(-1)
    for number in signals.HEEDED:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # of the threads that it starts, too
        threading.Thread(target=_await_parent, args=(os.getppid(),), daemon=True).start()
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _await_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _explained(error: Exception, processes: set[BaseProcess], place: str) -> WorkError | None:
    """What a user can do about an error of the worker processes; None if it is of another kind."""
    text = str(error)
    if isinstance(error, MemoryError) or "allocate memory" in text:
        return _short_of_memory()
    if text.startswith("Caught "):  # raised by an item, in a worker: not on the way that items take
        return None
    if "Too many open files" in text or "ancdata" in text:
        return WorkError(
            "the decoding processes ran out of open files; raise the limit (ulimit -n 65536), or give --workers 0"
        )
    if any(words in text for words in ("shared memory", "shm", "</torch_", "unable to mmap")):
        return _short_of_shared_memory()
    if isinstance(error, EOFError | OSError) and processes:  # one closed its end of the line: it may be ending
        try:
            wait([process.sentinel for process in processes], timeout=_ENDING_S)
            for process in processes:
                process.join(0.1)
        except RuntimeError as lost:  # torch's own watch over the processes, which says so at any moment
            text = str(lost)
    ends = {process.exitcode for process in processes if process.exitcode}
    if not ends and "DataLoader worker" not in text:
        return None
    if -signal.SIGBUS in ends:
        return _short_of_shared_memory()
    again = f"at {place} or soon after it; run the same command again with"
    if -signal.SIGKILL in ends or "Killed" in text:
        return WorkError(
            f"a decoding process was killed, as the system does when memory runs out, {again} fewer --workers "
            f"({len(processes)} now) or more memory"
        )
    number = min(ends, default=0)
    how = f"by {signal.Signals(-number).name}" if number < 0 else f"with status {number}"
    return WorkError(f"a decoding process ended {how}, {again} --workers 0 to see which image does it")


def _short_of_memory() -> WorkError:
    return WorkError("not enough memory for a batch of images; give a smaller --batch-size, or fewer --workers")


def _short_of_shared_memory() -> WorkError:
    free = f" ({shutil.disk_usage(SHARED_MEMORY).free / 1e6:.0f} MB free)" if SHARED_MEMORY.is_dir() else ""
    return WorkError(
        f"{SHARED_MEMORY}{free} is too small for what the decoding processes pass on; enlarge it "
        f"(docker run --shm-size 2g), or give --workers 0"
    )
