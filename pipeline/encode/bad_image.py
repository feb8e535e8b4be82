"""An image that cannot become pixels, and how the reason is said."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import clear_frames

_CUT = re.compile(r"truncated|unexpected end|end of (file|stream)|read past|requires a buffer", re.IGNORECASE)
_MEMORY = re.compile(
    r"out of memory|insufficient memory|(cannot|can't|failed to) allocate|allocation failed", re.IGNORECASE
)


class BadImage(Exception):
    """An image that cannot become pixels. `reason` is one line and the same on every machine: no path, no address."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def reason_of(error: BaseException, size: tuple[int, int] | None = None) -> str:
    """What a decoder's error says, on one line and without addresses, of an image of (width, height)."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    text = re.sub(r"<[^>]*>|\b0x[0-9a-fA-F]+", "...", text)[:160] or type(error).__name__
    if isinstance(error, MemoryError) or _MEMORY.search(text):
        return no_memory(size)
    return f"truncated: {text}" if isinstance(error, EOFError) or _CUT.search(text) else f"broken: {text}"


def unreadable(error: OSError) -> str:
    """The reason of a file that could not be read, without its path."""
    return f"cannot be read: {error.strerror or type(error).__name__}"


def no_memory(size: tuple[int, int] | None) -> str:
    """The reason of an image, of (width, height) if that is known, for which the memory does not suffice."""
    return "not enough memory to decode " + (f"{size[0]} x {size[1]} pixels" if size else "it")


@contextmanager
def memory_for(size: tuple[int, int] | None = None) -> Iterator[None]:
    """Lack of memory within is the failure of one image: raises BadImage for a MemoryError."""
    try:
        yield
    except MemoryError as error:
        clear_frames(error.__traceback__)  # whatever holds on to this error must not hold the pixels
        raise BadImage(no_memory(size)) from None
