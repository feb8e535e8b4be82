"""Work that a thread does ahead of whoever takes what comes of it."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Done = TypeVar("Done")

BATCHES_AHEAD = 3  # of a training step, where memory allows


def _nothing() -> None:
    pass


def work_ahead(
    jobs: Iterable[Job], work: Callable[[Job], Done], count: int, *, at_end: Callable[[], None] = _nothing
) -> Generator[Done, None, None]:
    """Yields what `work` makes of each job, in order, while one thread is `count` jobs ahead. Raises as `work` does.

    Once it is closed, or has raised, no thread is left; `at_end` is called before the last piece of work is waited for.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ci2p-load") as thread:
        pending: deque[Future[Done]] = deque()
        try:
            for job in jobs:
                pending.append(thread.submit(work, job))
                if len(pending) > count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
            at_end()
