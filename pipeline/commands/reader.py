"""Who reads what a command prints, and may go away meanwhile: `ci2p recipes | head -1`."""

import os
import select
import signal
import sys

GONE = 128 + signal.SIGPIPE  # the exit status that a shell gives to a tool which wrote on regardless


class ReaderGone(Exception):
    """Nobody reads what is printed; there is nobody to be told."""


def is_gone() -> bool:
    """Whether standard output or standard error is a pipe whose other end is closed."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        try:
            poll.register(stream.fileno(), 0)
        except (AttributeError, OSError, ValueError):  # None, closed, or no file: a program's own
            continue
    return any(found & (select.POLLERR | select.POLLHUP) for _, found in poll.poll(0))


def leave() -> None:
    """What is still to be written goes nowhere, so that the interpreter's end does not complain of it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nowhere, stream.fileno())
        except (AttributeError, OSError, ValueError):
            continue
    sys.exit(GONE)
