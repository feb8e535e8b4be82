"""Publishing files: written aside, flushed, fsynced and renamed, so that a name never shows half a file."""

import contextlib
import os
import socket
from pathlib import Path


def publish(path: Path, data: bytes) -> None:
    """Makes `path` hold exactly `data`, or leaves it as it was; parent folders are created.

    The bytes reach the disk before the name does. The file aside carries the names of machine and process, so that two
    that publish the same name do not write into each other's file. Raises OSError (a full disk, a read-only folder);
    the file aside is then removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk names no file by itself
        aside.unlink(missing_ok=True)
        raise
    _fsync_folder(path.parent)


def _fsync_folder(folder: Path) -> None:
    """A rename is durable only once its folder is; some network file systems refuse this, and need it less."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(path: Path) -> None:
    """Deletes the files aside that killed processes left while publishing `path`."""
    for aside in path.parent.glob(f".{path.name}.*.tmp"):
        aside.unlink(missing_ok=True)
