"""Publishing files: written aside, flushed, fsynced and renamed, so that a name never shows half a file.

FOLDER/.NAME.HOST.PID.START.tmp    the file aside, by whose it is, until it is FOLDER/NAME
"""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from ci2p_cache.process import parse_process, state_of, this_process
from ci2p_cache.remote_files import write_file
from ci2p_cache.remote_path import AnyPath, RemotePath

_LONGEST_NAME = 255  # bytes, of a file on most systems
# A file aside of which nobody here can know whether its owner still runs (another machine) is a leftover after this
# long without a write.
_FORGOTTEN_S = 3600.0
# What a process has open already; to open it by this name is to open the file behind it anew, or to fail on a socket.
_OWN_DESCRIPTOR = re.compile(r"/dev/fd/(\d+)|/proc/self/fd/(\d+)")
_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}


def publish(path: AnyPath, *parts: bytes | memoryview) -> None:
    """Makes `path` hold exactly these bytes, or leaves it as it was; parent folders are created.

    A store takes an object whole or not at all, so that there nothing is written aside.

    The bytes reach the disk before the name does. The file aside carries the names of machine and process, so that two
    that publish the same name do not write into each other's file. Raises OSError (a full disk, a read-only folder);
    the file aside is then removed.
    """
    if isinstance(path, RemotePath):
        write_file(path.url, b"".join(parts))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with published_aside(path) as aside, aside.open("wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def published_aside(path: Path) -> Iterator[Path]:
    """A file to write, and fsync, in place of `path`, whose name it takes on leaving; removed on any error.

    The folder must be there. An OSError names `path`.
    """
    aside = _aside(path)
    try:
        yield aside
        aside.replace(path)
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk names no file by itself
            error.filename2 = None
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_output(path: Path, data: bytes) -> None:
    """Writes a file that a user named: published, unless it is a device or a pipe, which are written through.

    A link stays one, and what it points to is written. Raises OSError that names `path`.
    """
    try:
        descriptor = _own_descriptor(path)
        if descriptor is not None:
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(data)
        elif path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb") as file:
                file.write(data)
        else:
            publish(path.resolve() if path.is_symlink() else path, data)
    except OSError as error:
        error.filename = str(path)
        raise


def sweep(folder: Path) -> None:
    """Deletes the files aside in a folder (not below it) whose processes are gone; a living one's stay."""
    _sweep(folder, "")


def sweep_tree(folder: AnyPath, gone: Collection[str] = ()) -> None:
    """`sweep` of a folder and all below it; of the processes `gone`, as `str` gives them, it is known that they are."""
    if isinstance(folder, RemotePath):
        return
    endings = tuple(f".{process}.tmp" for process in gone)
    for below, _, names in os.walk(folder):
        for name in names:
            if endings and name.startswith(".") and name.endswith(endings):
                Path(below, name).unlink(missing_ok=True)
        sweep(Path(below))


def remove_leftovers(path: AnyPath) -> None:
    """Deletes the files aside that killed processes left while publishing `path`; a living one's stay."""
    if isinstance(path, RemotePath):
        return
    _sweep(path.parent, f".{path.name}.")


def is_aside(path: Path) -> bool:
    """Whether a file is one that a process writes aside, by its name."""
    return path.name.startswith(".") and path.name.endswith(".tmp") and parse_process(path.name[:-4]) is not None


def fsync_folder(folder: Path) -> None:
    """A rename is durable only once its folder is; some network file systems refuse this, and need it less."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _aside(path: Path) -> Path:
    owner = f".{this_process()}.tmp"
    name = path.name
    if len(os.fsencode(f".{name}{owner}")) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return path.with_name(f".{name}{owner}")


def _sweep(folder: Path, beginning: str) -> None:
    try:
        entries = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.name.startswith(beginning or ".") and entry.name.endswith(".tmp") and _is_leftover(entry):
            entry.unlink(missing_ok=True)


def _is_leftover(aside: Path) -> bool:
    """Whether the process that wrote a file aside is gone; false of a file that is none of ours."""
    stem = aside.name.removesuffix(".tmp")
    # The host's name may have dots, as the file's own may; only what stands before the last two tells.
    process = parse_process(stem)
    if process is None:
        is_of_older_version = re.fullmatch(r"\..+\.\d{1,10}", stem) is not None  # .NAME.HOST.PID
        return is_of_older_version and _is_forgotten(aside)
    host = this_process().host
    if process.host.endswith(f".{host}"):
        state = state_of(type(process)(host, process.pid, process.start, process.kernel))
        if state != "unknown":
            return state == "gone"
    return _is_forgotten(aside)


def _is_forgotten(aside: Path) -> bool:
    try:
        return time.time() - aside.lstat().st_mtime > _FORGOTTEN_S
    except FileNotFoundError:
        return False


def _own_descriptor(path: Path) -> int | None:
    text = str(path)
    found = _OWN_DESCRIPTOR.fullmatch(text)
    return int(found[1] or found[2]) if found else _STANDARD.get(text)
