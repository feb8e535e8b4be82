"""Lock: a file that says whose a piece of work is, so that no two processes do it at once, on whatever machines.

FOLDER/NAME.lock    "HOST.PID.START-KERNEL SINCE", touched every few seconds, removed at the end

Whether its owner still runs is asked of the system where that can know. Of another machine, container or boot the file
itself tells: one that nobody has touched for long is given up, by the clock of the disk that it lies on.
"""

import contextlib
import os
import secrets
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from logging import getLogger
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.process import Process, parse_process, state_of, this_process

logger = getLogger("ci2p")

_BEAT_S = 10.0
_SILENT_S = 90.0  # a lock untouched for this long is nobody's
_LOOK_S = 1.0


@dataclass(frozen=True)
class _Found:
    """A lock as it stands."""

    text: str
    touched: float
    """By the clock of its disk, in s."""

    @property
    def owner(self) -> Process | None:
        """None where the text is none of ours, or not all there."""
        return parse_process(self.text.partition(" ")[0])

    @property
    def owner_state(self) -> Literal["running", "gone", "unknown"]:
        return "unknown" if self.owner is None else state_of(self.owner)

    def __str__(self) -> str:
        """Who has it, in words."""
        if self.owner is None:
            return "another process"
        since = self.text.partition(" ")[2].strip()
        return f"process {self.owner.pid} on {self.owner.host}" + (f" since {since}" if since else "")


class Lock:
    """A lock that this process has taken; a context manager that lets go of it."""

    def __init__(self, path: Path, *, work: str, way_out: str) -> None:
        """Takes it; the folder must be there. `work` and `way_out` are for the message.

        One of another machine that may be dead is watched until it is touched or silent for long enough. Raises
        InputError, naming the owner, when another has it, OSError when the disk refuses.
        """
        self._path = path
        self._work = work
        self._text = f"{this_process()} {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n"
        while not _create(path, self._text):
            found = _look(path)
            if found is not None:
                if not _is_given_up(path, found, work):
                    raise InputError(f"{work} is being done by {found}; {way_out}")
                _clear(path, found.text)
        self._ended = threading.Event()
        threading.Thread(target=self._beat, name="ci2p-lock", daemon=True).start()

    def check(self) -> None:
        """Raises WorkError when another has taken it over, which it may after a long silence (a machine asleep)."""
        found = _look(self._path)
        if found is None and not _create(self._path, self._text):  # somebody deleted it
            found = _look(self._path)
        if found is not None and found.text != self._text:
            raise WorkError(f"{self._work} was taken over by {found} while this process was not heard of; it ends here")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            found = _look(self._path)
            if found is not None and found.text == self._text:
                self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT_S):
            with contextlib.suppress(OSError):  # a disk that is away for a while; `check` says what came of it
                found = _look(self._path)
                if found is not None and found.text == self._text:
                    os.utime(self._path)


def _create(path: Path, text: str) -> bool:
    """Whether there was no lock, and is now one with this text."""
    aside = _aside(path)
    try:
        aside.write_text(text)
        with contextlib.suppress(OSError):
            os.link(aside, path)
        # A network file system may do it and say that it failed, when an answer was lost.
        if aside.stat().st_nlink > 1:
            return True
    finally:
        aside.unlink(missing_ok=True)
    if path.exists():
        return False
    try:  # a file system without links
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def _look(path: Path) -> _Found | None:
    """None when there is no lock. Opened, since a network file system answers for a mere name from memory."""
    try:
        with path.open("rb") as file:
            return _Found(file.read(1000).decode(errors="replace"), os.fstat(file.fileno()).st_mtime)
    except FileNotFoundError:
        return None


def _is_given_up(path: Path, found: _Found, work: str) -> bool:
    """Whether a lock's owner is gone; watches one that only its silence can tell of."""
    if found.owner_state != "unknown":
        return found.owner_state == "gone"
    begin = time.monotonic()
    while (silent_s := max(_now(path) - found.touched, time.monotonic() - begin)) < _SILENT_S:
        if time.monotonic() - begin < _LOOK_S:
            logger.info("%s: waiting %.0f s for a sign of %s", work, _SILENT_S - silent_s, found)
        time.sleep(_LOOK_S)
        again = _look(path)
        if again is None or again.text != found.text:
            return True  # let go of, or taken by another: look anew
        if again.touched != found.touched:
            return False
    return True


def _clear(path: Path, text: str) -> None:
    """Removes the lock with this text, whose owner is gone; or does nothing, and is to be called again.

    Under a guard, which is a lock of some milliseconds: of two that found the same dead owner, the later one would
    remove what the earlier one has put there.
    """
    guard = path.with_name(f".{path.name}.guard")
    if not _create(guard, f"{this_process()} \n"):
        found = _look(guard)
        if found is not None and (found.owner_state == "gone" or _now(path) - found.touched > _SILENT_S):
            guard.unlink(missing_ok=True)
        time.sleep(_LOOK_S / 20)
        return
    try:
        found = _look(path)
        if found is not None and found.text == text:
            path.unlink(missing_ok=True)
    finally:
        guard.unlink(missing_ok=True)


def _now(path: Path) -> float:
    """By the clock of the disk."""
    aside = _aside(path)
    try:
        aside.touch()
        return aside.stat().st_mtime
    finally:
        aside.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{this_process()}.tmp")
