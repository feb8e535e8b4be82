"""Signals that end a command: SIGTERM (Slurm, Kubernetes, a spot machine's notice), SIGHUP, and SIGUSR1 as
`sbatch --signal` sends it. Ctrl-C stays Python's own, but where work asks to finish first.

The command line alone asks for them; a program that imports ci2p keeps its own handlers.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

HEEDED = tuple(signal.Signals[name] for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
_NOTED = (*HEEDED, signal.SIGINT)
_CLOSED = b"\0"  # no signal's number
# Slurm signals every process of a job, and whoever started one of several passes it on as well: that is one signal.
_SAME_SIGNAL_S = 1.0
_AT_ONCE_S = 3.0  # what the main thread may take to end by a second signal; it may be deep in torch, or wait for a peer


class Ended(BaseException):
    """A signal has ended the command; like KeyboardInterrupt no Exception, so that nobody takes it for a failure."""

    def __init__(self, number: int, message: str | None = None) -> None:
        super().__init__(message or f"ended by {signal.Signals(number).name}; run the same command again")
        self.number = number

    @property
    def exit_status(self) -> int:
        """As a shell says it: 143 for SIGTERM, 129 for SIGHUP, 138 for SIGUSR1."""
        return 128 + self.number


class _Watcher:
    """Ends the process some seconds after a second signal, whatever the main thread is in.

    Python's handlers wait for that one to come back from torch: a step of minutes, or a peer that is gone.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._lock = threading.Lock()
        self._closed = False
        self._timer: threading.Timer | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        signal.set_wakeup_fd(self._before)
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
        os.write(self._write, _CLOSED)  # its end alone would not be seen: processes that were forked hold it open
        self._thread.join()
        os.close(self._write)
        os.close(self._read)

    def _watch(self) -> None:
        first_at: float | None = None
        while (byte := os.read(self._read, 1)) != _CLOSED:  # the number of a signal, as it comes
            now = time.monotonic()
            if byte[0] not in HEEDED or _state.passed_on is not None:
                continue
            if first_at is None:
                first_at = now
            elif not _is_same(now - first_at):
                self._arm(byte[0])

    def _arm(self, number: int) -> None:
        with self._lock:
            if not self._closed and self._timer is None:
                self._timer = threading.Timer(_AT_ONCE_S, _end, [number])
                self._timer.daemon = True
                self._timer.start()


def _end(number: int) -> None:
    os.write(2, f"Error: {Ended(number)}\n".encode())
    os._exit(128 + number)


def _is_same(seconds: float) -> bool:
    """Whether a signal so long after the first one may be the same, on two ways."""
    return "RANK" in os.environ and seconds < _SAME_SIGNAL_S


@dataclass
class _State:
    """Of this process, as signals are."""

    finishing: int = 0  # how many `finishing` are open
    told: int | None = None  # the first signal
    told_at: float = 0.0
    raised: bool = False
    passed_on: Callable[[int], None] | None = None
    pid: int = 0  # that notes interrupts


_state = _State()


@contextmanager
def ending_by_signals() -> Iterator[None]:
    """Within it each of `HEEDED` raises Ended in the main thread, a second one while that unwinds ends the process.

    A signal that is ignored (nohup) or handled already is left alone; in another thread than the main one, all are.
    """
    global _state
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = _state
    _state = _State()
    ours = [number for number in HEEDED if signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _handle)
    watcher = _Watcher()
    try:
        yield
    finally:
        watcher.close()
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        _state = before


@contextmanager
def finishing(*, interrupts: bool = False) -> Iterator[None]:
    """Within it the first signal is only noted, for the work to end where it can be gone on from; a second one raises.

    With `interrupts` so is Ctrl-C, of a command and of any program that leaves it to Python. Whoever opens it asks
    `told`, or `end_if_told`, often.
    """
    is_main = threading.current_thread() is threading.main_thread()
    ours = interrupts and is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        _state.pid = os.getpid()
        signal.signal(signal.SIGINT, _note_interrupt)
    _state.finishing += 1
    try:
        yield
    finally:
        _state.finishing -= 1
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if _state.told == signal.SIGINT:
                _state.told = None


@contextmanager
def passing_on(send: Callable[[int], None]) -> Iterator[None]:
    """Within it every signal is `send`'s: of the processes that this one has started, which end by it."""
    before, _state.passed_on = _state.passed_on, send
    try:
        yield
    finally:
        _state.passed_on = before


def told() -> int | None:
    """The signal that has told this process to end, if one has."""
    return _state.told


def told_each() -> list[bool]:
    """Of each that may be noted, whether it has told this process to end; to be put together with those of others."""
    return [number == _state.told for number in _NOTED]


def first_of(each: Sequence[bool]) -> int | None:
    """The signal of `told_each`, put together."""
    return next((int(number) for number, is_told in zip(_NOTED, each, strict=True) if is_told), None)


def end_if_told() -> None:
    """Raises Ended where a signal has been noted; what was done so far is kept, and the message says so."""
    if _state.told is not None:
        raise ended_resumably(_state.told)


def ended_resumably(number: int) -> BaseException:
    """Of work that the same command goes on with: Ended, or KeyboardInterrupt."""
    if number == signal.SIGINT:
        return KeyboardInterrupt()
    _state.raised = True
    return Ended(number, f"ended by {signal.Signals(number).name}; run the same command again to continue")


def _handle(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _state.passed_on is not None:
        _state.told = number
        _state.passed_on(number)
        return
    if _state.told is None:
        _state.told, _state.told_at = number, now
        if _state.finishing:
            return
    elif _is_same(now - _state.told_at):
        return
    if _state.raised:
        os._exit(128 + number)
    _state.raised = True
    raise Ended(number)


def _note_interrupt(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _state.pid:
        return  # a loader's process that was forked meanwhile, which the one that is told ends
    now = time.monotonic()
    if _state.told is None:
        _state.told, _state.told_at = number, now
        if "RANK" not in os.environ:
            # Not through sys.stderr, whose buffer may be in use.
            os.write(2, b"\ninterrupted: ends after this step, with a checkpoint; once more ends at once\n")
    elif not _is_same(now - _state.told_at):
        raise KeyboardInterrupt
