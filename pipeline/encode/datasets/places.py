"""Where the files of a data set may lie: on disk, or on a server behind fsspec, looked through in the same way."""

import os
import re
import stat
from pathlib import Path
from typing import Protocol

from ci2p_cache import remote_files
from ci2p_cache.errors import InputError
from ci2p_cache.printable import printable

_LOCAL_URL = re.compile(r"(?:file|local)://", re.IGNORECASE)
_WEB_URL = re.compile(r"https?://", re.IGNORECASE)


class Places(Protocol):
    """A tree of files, on disk or on a server; paths are joined with "/"."""

    num_folders_deep: int  # how far down folders are looked through

    def exists(self, path: str) -> bool: ...

    def is_file(self, path: str) -> bool: ...

    def is_folder(self, path: str) -> bool: ...

    def is_link(self, path: str) -> bool: ...

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """Sorted names of its folders, and of all else in it; empty when there is no such folder."""

    def check(self, path: str, expected: str) -> None:
        """Raises InputError when a path without a pattern is known to be missing."""


def places_of(address: str) -> tuple[Places, str, str]:
    """The tree that a path or URL lies in, the root of it, and the path from there, joined to it with "/".

    Raises InputError for `~nosuchuser`.
    """
    local = _LOCAL_URL.match(address)
    if local is None and "://" in address:
        root, _, rest = without_query(address).partition("://")
        return RemotePlaces(), f"{root}:/", rest.rstrip("/")
    try:
        path = Path(address[local.end() :] if local else address).expanduser()
    except RuntimeError as error:
        raise InputError(f"--data-dir {printable(address)}: {error}; give the whole path") from error
    if "\0" in address:
        raise InputError(f"--data-dir {printable(address)}: a path cannot have a NUL character in it; mend it")
    return LocalPlaces(), "", os.path.abspath(path).lstrip("/")  # noqa: PTH100  (resolve() would follow links)


def without_query(address: str) -> str:
    """A web address up to its "?" or "#", where signatures begin; any other path or URL as it is."""
    return re.split("[?#]", address, maxsplit=1)[0] if _WEB_URL.match(address) else address


class LocalPlaces:
    """The disk; paths are absolute."""

    num_folders_deep = 1000

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def is_file(self, path: str) -> bool:
        try:
            return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116
        except OSError:
            return False

    def is_folder(self, path: str) -> bool:
        return Path(path).is_dir()

    def is_link(self, path: str) -> bool:
        return Path(path).is_symlink()

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        folders: list[str] = []
        files: list[str] = []
        try:
            with os.scandir(folder or "/") as entries:
                for entry in entries:
                    (folders if entry.is_dir() else files).append(entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return [], []
        except OSError as error:
            raise InputError(f"--data-dir: cannot list {printable(folder)}: {error.strerror}") from error
        return sorted(folders), sorted(files)

    def check(self, path: str, expected: str) -> None:
        shown = printable(path)
        if Path(path).is_dir():
            raise InputError(f"--data-dir: {shown} is a folder among tars; add /*.tar to it")
        if not os.path.lexists(path):
            raise InputError(f"--data-dir: there is no file or folder {shown}; {expected}")
        if not self.is_file(path):
            raise InputError(f"--data-dir: {shown} is no regular file (a pipe, a device or a broken link); {expected}")


class RemotePlaces:
    """A server. A path without a pattern is not asked for: that it is missing shows when it is opened."""

    num_folders_deep = 0  # beyond the folders of splits: each costs a request

    def __init__(self) -> None:
        self._folders: set[str] = set()

    def exists(self, path: str) -> bool:
        if "/" not in path.partition("://")[2]:  # a bucket or a host
            return False
        try:
            return remote_files.exists(path)
        except PermissionError:  # who may read but not list cannot know, and no one calls a file {000..127}
            return False
        except (OSError, ImportError, ValueError) as error:
            raise _cannot_list(path, error) from error

    def is_file(self, path: str) -> bool:
        return path not in self._folders

    def is_folder(self, path: str) -> bool:
        return path in self._folders

    def is_link(self, path: str) -> bool:
        return False

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        try:
            folders, files = remote_files.entries(folder)
        except (FileNotFoundError, NotADirectoryError):
            return [], []
        except (OSError, ImportError, ValueError) as error:
            raise _cannot_list(folder, error) from error
        self._folders |= {f"{folder}/{name}" for name in folders}
        return folders, files

    def check(self, path: str, expected: str) -> None:
        pass


def _cannot_list(path: str, error: Exception) -> InputError:
    return InputError(f"--data-dir: cannot list {printable(path)}: {remote_files.describe(error)}")
