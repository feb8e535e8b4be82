"""Disk cache: files of a remote cache on a disk of this machine, fetched once for all of its processes.

FOLDER/SPLIT/SHA256       a file of a split, whole: named by what it holds, so that none is ever out of date
FOLDER/SPLIT/readers      empty; locked by each process that reads the split
FOLDER/claims/00 ... ff   empty; locked by whoever fetches a file whose hash begins so
FOLDER/used               how many bytes there are, or more; locked while room is made

All locks are flock's, and end with the process that has them, however it ends. A file is locked while it is mapped.
"""

import contextlib
import errno
import fcntl
import logging
import math
import mmap
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ci2p_cache.errors import InputError, describe_system_error
from ci2p_cache.local_path import refuse_url
from ci2p_cache.publish import is_aside, published_aside, sweep
from ci2p_cache.seals import FileSeal, check_seal, find_damage

logger = logging.getLogger("ci2p")

DEFAULT_GB = 50.0
_FILE = re.compile("[0-9a-f]{64}")
_SPLIT = re.compile("[0-9a-f]{16}")
_LOOK_S = 0.005
_CLAIM_S = 120.0  # a process that fetches for longer (it may be stopped) is waited for no more
_FULL_S = 10.0  # how long a cache that had no room is taken to have none
_SLACK = 0.02  # of the bound is freed at once, so that the folder is not walked for every file


@dataclass(frozen=True)
class LocalDisk:
    """Where remote files may be kept on this machine, and how many bytes of them at most."""

    folder: str
    most_bytes: int


def local_disk(folder: str | os.PathLike[str] | None, gigabytes: float | None) -> LocalDisk | None:
    """Of --cache-dir and --cache-gb (50). Raises InputError for a URL, and a bound alone or not above 0."""
    if folder is None:
        if gigabytes is not None:
            raise InputError(f"--cache-gb {gigabytes:g} needs --cache-dir, the folder that it bounds; give both")
        return None
    refuse_url("--cache-dir", os.fspath(folder))
    gigabytes = DEFAULT_GB if gigabytes is None else gigabytes
    if not 0 < gigabytes < math.inf:
        raise InputError(f"--cache-gb {gigabytes:g}: give a number of gigabytes above 0")
    return LocalDisk(os.path.abspath(folder), int(gigabytes * 1e9))  # noqa: PTH100  (links are not followed)


class DiskCache:
    """The kept files of one split. Safe to share among threads, and with other processes and splits."""

    def __init__(self, disk: LocalDisk, split_id: str):
        """`split_id` names the split. Raises InputError for a folder that cannot be made, or lets no file be locked."""
        self._disk = disk
        self._root = Path(disk.folder)
        self._folder = self._root / split_id[:16]
        self._full_until = 0.0
        self._has_warned = False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._root / "claims").mkdir(exist_ok=True)
            sweep(self._folder)
            self._reading = (self._folder / "readers").open("ab")  # for as long as this object lives
            fcntl.flock(self._reading, fcntl.LOCK_SH)
        except OSError as error:
            raise InputError(
                f"--cache-dir {disk.folder}: {describe_system_error(error)}; give a folder on a disk of this machine"
            ) from error

    def get(self, seal: FileSeal, url: str, fetch: Callable[[], memoryview]) -> memoryview:
        """The bytes of a file: kept ones, or those that `fetch` brings, which are kept if there is room.

        One process fetches and the others wait for it. Raises WorkError when what came is not what was sealed.
        """
        path = self._folder / seal.sha256
        is_full = time.monotonic() < self._full_until
        data = self._kept(path, seal)
        if data is not None:
            return data
        if is_full:
            return _checked(fetch(), seal, url)
        with self._claim(seal):
            data = self._kept(path, seal)  # by whoever had the claim until now
            return self._keep(path, _checked(fetch(), seal, url)) if data is None else data

    def is_damaged(self, seal: FileSeal) -> bool:
        """Whether a file is kept, and is not what was put there."""
        return find_damage(self._folder, seal.sha256, seal) not in (None, "missing")

    def discard(self, seal: FileSeal) -> None:
        """Removes a kept file that is damaged; whoever has it mapped still has it."""
        with contextlib.suppress(OSError):
            (self._folder / seal.sha256).unlink()

    def _kept(self, path: Path, seal: FileSeal) -> memoryview | None:
        """Mapped, and locked until the mapping is gone: its own descriptor is of the same opening of the file."""
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                found = os.fstat(file.fileno())
                if not found.st_nlink:  # it made way just now
                    return None
                if found.st_size != seal.num_bytes:
                    self.discard(seal)
                    return None
                with contextlib.suppress(OSError):
                    os.utime(file.fileno())
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # too many files are open, the disk fails
            self._warn(f"{path} cannot be read ({error})")
            return None

    def _keep(self, path: Path, data: memoryview) -> memoryview:
        """Puts a file down whole and maps it; the data themselves where that cannot be."""
        try:
            with published_aside(path) as aside, self._with_room(aside, len(data)) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            self._full_until = time.monotonic() + _FULL_S
            reason = error.strerror if isinstance(error, OSError) else error
            self._warn(f"{reason}: what does not fit is held in memory, and fetched by each process for itself")
            return data

    @contextlib.contextmanager
    def _claim(self, seal: FileSeal) -> Iterator[None]:
        end = time.monotonic() + _CLAIM_S
        with contextlib.ExitStack() as stack:
            try:
                claim = stack.enter_context((self._root / "claims" / seal.sha256[:2]).open("ab"))
                while not _try_lock(claim):
                    if time.monotonic() > end:
                        self._warn(f"another process has been fetching for {_CLAIM_S:g} s, and is waited for no more")
                        break
                    time.sleep(_LOOK_S)
            except OSError as error:  # somebody has deleted the folder
                self._warn(describe_system_error(error))
            yield

    @contextlib.contextmanager
    def _with_room(self, aside: Path, num_bytes: int) -> Iterator[IO[bytes]]:
        """A new file of that length, locked as one that is read. Raises OSError when there is no room for it."""
        with (self._root / "used").open("a+b") as used:
            fcntl.flock(used, fcntl.LOCK_EX)
            used.seek(0)
            text = used.read(32)
            total = int(text) if text.isdigit() else None  # None: new, or a kill cut it short
            if total is None or total + num_bytes > self._disk.most_bytes:
                total = self._make_room(num_bytes)
            used.truncate(0)
            used.write(str(total + num_bytes).encode())
            used.flush()
            file = aside.open("x+b")
            try:
                fcntl.flock(file, fcntl.LOCK_SH)
                file.truncate(num_bytes)  # counted from now on
            except BaseException:
                file.close()
                raise
        with file:
            yield file

    def _make_room(self, num_bytes: int) -> int:
        """Lets files make way until there is room. Returns how many bytes are left; raises OSError if too many are.

        Splits that nobody reads go first, what was used longest ago before the rest. Of the others what was used last:
        an epoch needs every shard once, so that one comes again the latest.
        """
        most_bytes = self._disk.most_bytes
        found: list[tuple[bool, int, Path, int]] = []
        for folder in self._root.iterdir():
            if _SPLIT.fullmatch(folder.name) and folder.is_dir():
                sweep(folder)
                is_read = _is_locked(folder / "readers")
                sign = -1 if is_read else 1
                found += [(is_read, sign * used_ns, path, size) for used_ns, path, size in _files(folder)]
        total = sum(size for *_, size in found)
        room_for = num_bytes if total + num_bytes <= most_bytes else num_bytes + int(_SLACK * most_bytes)
        for _, _, path, size in sorted(found):
            if total + room_for <= most_bytes:
                break
            if _FILE.fullmatch(path.name) and not _is_locked(path, remove=True):
                total -= size
        if total + num_bytes > most_bytes:
            raise OSError(errno.ENOSPC, f"--cache-gb {most_bytes / 1e9:g} is all in use", str(self._root))
        return total

    def _warn(self, text: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("--cache-dir %s: %s", self._root, text)


def _checked(data: memoryview, seal: FileSeal, url: str) -> memoryview:
    split_dir, _, name = url.rpartition("/")
    check_seal(data, name, {name: seal}, split_dir)
    return data


def _files(folder: Path) -> Iterator[tuple[int, Path, int]]:
    """(when it was last used, in ns; path; bytes) of what is kept in a folder or being written there."""
    found: dict[Path, os.stat_result] = {}
    for path in list(folder.iterdir()):
        if _FILE.fullmatch(path.name) or is_aside(path):
            # What is written takes its name at any time, this one too.
            for each in (path, folder / path.name[1:65]):
                with contextlib.suppress(FileNotFoundError):
                    found[each] = each.stat()
                    break
    for path, stat in found.items():
        yield stat.st_mtime_ns, path, stat.st_size


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_locked(path: Path, *, remove: bool = False) -> bool:
    """Whether anybody has a file locked; with `remove` it is gone when nobody has."""
    try:
        with path.open("r+b") as file:
            if not _try_lock(file):
                return True
            if remove:
                path.unlink()
    except FileNotFoundError:
        return False
    return False
