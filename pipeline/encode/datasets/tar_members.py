"""Files inside of tars, read where they lie: found once by their headers, then by (tar, offset, size)."""

import errno
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

import fsspec
import numpy as np
from numpy.typing import NDArray

from ci2p_cache.errors import InputError
from ci2p_cache.remote import client_errors
from pipeline.encode.datasets.split import Stamp

_MAX_OPEN = 64


class TarMembers:
    """An ImageSource: byte ranges of tars, local paths or fsspec URLs.

    `tar_of_row`, `offsets` and `sizes` are parallel, in bytes from the start of the (outer) tar. A process opens a
    local tar when it first reads from it and keeps it open; nothing open travels when the source is pickled.
    """

    def __init__(
        self, tars: Sequence[str], tar_of_row: Sequence[int], offsets: Sequence[int], sizes: Sequence[int]
    ) -> None:
        self.tars = tuple(tars)
        self.tar_of_row: NDArray[np.int32] = np.array(tar_of_row, dtype=np.int32)
        self.offsets: NDArray[np.int64] = np.array(offsets, dtype=np.int64)
        self.sizes: NDArray[np.int64] = np.array(sizes, dtype=np.int64)
        self._descriptors: dict[str, int] = {}
        self._modified_ns: dict[str, int] = {}

    def read(self, row: int) -> bytes:
        tar, offset, size = self.tars[self.tar_of_row[row]], int(self.offsets[row]), int(self.sizes[row])
        data = _read_remote(tar, offset, size) if is_url(tar) else self._read_local(tar, offset, size)
        if len(data) != size:
            raise OSError(errno.EIO, f"{len(data)} of {size} bytes: the tar has changed since it was listed", tar)
        return data

    def stamp(self, row: int) -> Stamp:
        """The image's size as the tar's header has it, and the time of a local tar."""
        tar = self.tars[self.tar_of_row[row]]
        if tar not in self._modified_ns:
            self._modified_ns[tar] = -1 if is_url(tar) else Path(tar).stat().st_mtime_ns
        return Stamp(int(self.sizes[row]), self._modified_ns[tar])

    def _read_local(self, tar: str, offset: int, size: int) -> bytes:
        descriptor = self._descriptors.get(tar)
        if descriptor is None:
            descriptor = os.open(tar, os.O_RDONLY)
            if len(self._descriptors) >= _MAX_OPEN:  # many tars: stay below the limit on open files
                try:
                    return os.pread(descriptor, size, offset)
                finally:
                    os.close(descriptor)
            kept = self._descriptors.setdefault(tar, descriptor)
            if kept != descriptor:  # another thread was faster
                os.close(descriptor)
                descriptor = kept
        return os.pread(descriptor, size, offset)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptors": {}}

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)


def is_url(path: str) -> bool:
    return "://" in path


@contextmanager
def tar_headers(path: str) -> Iterator[tarfile.TarFile]:
    """An uncompressed tar, local or remote, opened to walk its headers.

    Raises InputError when it is missing, compressed, cut short or no tar at all, also for what is found on the walk.
    """
    try:
        with _open(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            yield tar
    except ImportError as error:  # fsspec finds s3://, gs:// and http:// through packages of their own
        raise InputError(f"--data-dir: cannot read {path}: {error}") from error
    except tarfile.TarError as error:
        raise InputError(
            f"--data-dir: {path} is cut short or is no uncompressed tar ({error}); copy or download it again"
        ) from error
    except OSError as error:
        raise InputError(f"--data-dir: cannot read {path}: {error.strerror or error}") from error
    except client_errors() as error:
        raise InputError(f"--data-dir: cannot read {path}: {error}") from error


def file_members(tar: tarfile.TarFile, path: str) -> Iterator[tarfile.TarInfo]:
    """The regular files of a tar, in its order; hidden files and folders are passed over. `path` is for messages.

    Raises InputError for links and other things without bytes of their own, since leaving them out would lose images,
    and for a tar without its end mark: `tarfile` takes a cut or a damaged header for the end and says nothing.
    """
    for member in tar:
        if member.isdir() or member.name.rpartition("/")[2].startswith("."):
            continue
        if not member.isreg() or member.issparse():
            raise InputError(f"--data-dir: {path}: {member.name} is a link or a special file; pack plain files")
        yield member
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise InputError(f"--data-dir: {path} is cut short or damaged at byte {tar.offset}; copy or download it again")


def _open(path: str) -> AbstractContextManager[IO[bytes]]:
    if not is_url(path):
        return Path(path).open("rb")
    remote: AbstractContextManager[IO[bytes]] = fsspec.open(path, "rb")
    return remote


def _read_remote(url: str, offset: int, size: int) -> bytes:
    filesystem, path = fsspec.core.url_to_fs(url)  # fsspec keeps one per process and address
    try:
        data: bytes = filesystem.cat_file(path, start=offset, end=offset + size)
    except client_errors() as error:
        raise OSError(
            errno.EIO, f"the server answered {getattr(error, 'status', type(error).__name__)}", url
        ) from error
    return data
