"""Files inside of tars, read where they lie: found once by their headers, then by (tar, offset, size)."""

import errno
import os
import posixpath
import re
import stat
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.errors import InputError
from ci2p_cache.left_out import LeftOutFiles
from ci2p_cache.printable import printable
from ci2p_cache.remote import cannot_read
from ci2p_cache.remote_files import open_file, read_range
from pipeline.encode.datasets.data_dir import reading
from pipeline.encode.datasets.listing import HIDDEN
from pipeline.encode.datasets.split import Stamp

_MAX_OPEN = 64
_SCANNED_BYTES = 1 << 20
_VOLUME_LABEL = b"V"  # the type of an entry that has nothing but a name
_UNUSUAL_PART = re.compile(r"(?:^|/)(?:\.|/|$)|^/")  # of a name: empty, or one that begins with a dot
# First bytes of what people call .tar and is none: what it is, and the way out.
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"\x04\x22\x4d\x18": ("lz4", "unlz4"),
    b"PK\x03\x04": ("zip", "unzip, then tar -cf,"),
    b"7z\xbc\xaf\x27\x1c": ("7-Zip", "7z x, then tar -cf,"),
}


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
            descriptor = os.open(tar, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO in the tar's place would wait for ever
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
    shown = printable(path)
    try:
        with reading(path), _open(path) as file:
            _check_uncompressed(file, shown)
            with open_tar(file) as tar:
                yield tar
    except tarfile.TarError as error:
        raise InputError(
            f"--data-dir: {shown} is cut short or is no uncompressed tar ({error}); copy or download it again"
        ) from error


def open_tar(file: IO[bytes] | None) -> tarfile.TarFile:
    """An uncompressed tar that begins where `file` stands, a tar within a tar too. Raises tarfile.TarError."""
    try:
        return tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape")
    except (ValueError, OverflowError) as error:  # numbers in extended headers that are none
        raise tarfile.ReadError(f"a header that makes no sense: {error}") from error


def file_members(tar: tarfile.TarFile, path: str, left_out: LeftOutFiles | None = None) -> Iterator[tarfile.TarInfo]:
    """The regular files of a tar, in its order, named relative to its root; `path` is for messages.

    Hidden files (a name or a folder that begins with a dot) are passed over and counted in `left_out`. Tars that were
    joined by `cat` are read as one. Raises InputError for links and other things without bytes of their own, since
    leaving them out would lose images; for a name that comes twice, since one of the two would be lost; and for a tar
    without its end mark: `tarfile` takes a cut or a damaged header for the end and says nothing.
    """
    path = printable(path)
    names: set[str] = set()
    for member in _all_members(tar, path):
        if member.isdir():
            continue
        name = member.name
        if _UNUSUAL_PART.search(name):
            parts = [part for part in name.split("/") if part not in ("", ".")]
            if any(part.startswith(".") and part != ".." for part in parts):
                if left_out is not None:
                    left_out.add(HIDDEN, printable(f"{posixpath.basename(path)}: {name}"))
                continue
            if ".." in parts or not parts:
                shown = printable(name)
                raise InputError(
                    f"--data-dir: {path}: {shown} leads out of the tar; pack it again from the folder itself"
                )
            member.name = "/".join(parts)
        if member.type == _VOLUME_LABEL:
            continue
        _check_plain(member, path)
        if member.name in names:
            raise InputError(
                f"--data-dir: {path} holds {printable(name)} twice, one of them appended; pack it again with one of "
                "the two"
            )
        names.add(member.name)
        yield member


def _all_members(tar: tarfile.TarFile, path: str) -> Iterator[tarfile.TarInfo]:
    """Every entry of the tar, and of those that `cat` joined to it."""
    file = tar.fileobj
    assert file is not None
    last = -1
    while True:
        while (member := _next(tar)) is not None:
            if member.size < 0 or member.offset_data <= last:
                raise InputError(f"--data-dir: {path} is damaged at byte {member.offset}; copy or download it again")
            last = member.offset_data
            yield member
        end = tar.offset
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise InputError(f"--data-dir: {path} is cut short or damaged at byte {end}; copy or download it again")
        begin = _end_of_zeros(file, end + tarfile.BLOCKSIZE)
        if begin is None:
            return
        begin -= (begin - end) % tarfile.BLOCKSIZE
        file.seek(begin)
        joined = open_tar(file)  # type: ignore[arg-type]  # what it reads from is all that it needs
        if joined.offset == begin:  # not one header
            raise InputError(
                f"--data-dir: {path} goes on at byte {begin}, after its end mark, with something that is no tar; "
                "copy or download it again, or cut it there"
            )
        tar = joined


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    begin = tar.offset
    try:
        return tar.next()
    except (ValueError, OverflowError) as error:  # numbers in extended headers that are none
        raise tarfile.ReadError(f"a header at byte {begin} that makes no sense: {error}") from error


def _end_of_zeros(file: Any, position: int) -> int | None:
    """Where the first byte that is not zero lies, from `position` on; None when there is none."""
    file.seek(position)
    while data := file.read(_SCANNED_BYTES):
        rest = data.lstrip(b"\0")
        if rest:
            return position + len(data) - len(rest)
        position += len(data)
    return None


def _check_plain(member: tarfile.TarInfo, path: str) -> None:
    if member.isreg() and not member.issparse() and not member.pax_headers:
        return
    if member.issparse() or any(field.startswith("GNU.sparse.") for field in member.pax_headers):
        what, way_out = "is stored as a sparse file", "pack it again without --sparse"
    elif member.issym() or member.islnk():
        what = f"is a link or a special file: it stands for {printable(member.linkname)}"
        way_out = "pack plain files (tar --dereference --hard-dereference)"
    elif not member.isreg():
        what, way_out = f"is a link or a special file (type {member.type!r})", "pack plain files"
    else:
        return
    raise InputError(f"--data-dir: {path}: {printable(member.name)} {what}; {way_out}")


def _check_uncompressed(file: IO[bytes], path: str) -> None:
    """Raises InputError for what other programs unpack; leaves the file at its beginning."""
    begin = file.read(8)
    file.seek(0)
    for mark, (what, way_out) in _COMPRESSED.items():
        if begin.startswith(mark):
            raise InputError(
                f"--data-dir: {path} is compressed ({what}), and images are read from where they lie in a tar; "
                f"decompress it first: {way_out} {posixpath.basename(path)}"
            )


def _open(path: str) -> AbstractContextManager[IO[bytes]]:
    if is_url(path):
        return open_file(path)
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return file


def _read_remote(url: str, offset: int, size: int) -> bytes:
    """Raises WorkError: a server that fails makes no image a bad one, to be left out."""
    try:
        return read_range(url, offset, offset + size)
    except OSError as error:
        raise cannot_read(printable(url), error) from error
