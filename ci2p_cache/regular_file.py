"""Reading a regular file, and nothing else that its name may lead to."""

import errno
import os
import stat
from pathlib import Path


def read_regular(path: str | Path) -> bytes:
    """Raises OSError, also for a pipe, which would be waited for without end, and for a device, which has none."""
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return file.read()


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
