"""Checkpoint files: what a training saves, in one piece and sealed, and reads back as tensors and plain values only.

A file is the zip archive that `torch.save` makes, and `torch.load` reads it as ever; the archive's comment is the
SHA-256 of all bytes before it. torch itself looks at no checksum, and those of the archive leave its own tables out.

NAME.ckpt        the newest
previous.ckpt    the one before it, since a disk that damages a file does so after it was written
"""

import hashlib
import logging
import os
import pickle
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any, TypeVar

import torch

from ci2p_cache.errors import WorkError
from ci2p_cache.publish import published_aside

logger = logging.getLogger("ci2p")

T = TypeVar("T")
_SEAL = b"ci2p sha256 "
_SEAL_BYTES = len(_SEAL) + hashlib.sha256().digest_size * 2
_END_BYTES = 22  # of the record that ends a zip archive, whose last two say how long its comment is
_END = b"PK\x05\x06"
# What torch's reader of archives and unpickler come to grief with, over bytes that nobody damaged.
_UNREADABLE = (
    *(MemoryError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError),
    *(LookupError, TypeError, AttributeError, AssertionError),
)


class DamagedCheckpoint(WorkError):
    """The bytes are not those that were written; raised for nothing else."""


def write_checkpoint(path: Path, content: dict[str, Any], *, format_version: int, previous: Path | None = None) -> None:
    """Publishes a checkpoint in one piece, and keeps the one that it replaces as `previous`.

    Raises OSError when the disk refuses; the newest is then still there, under one of the two names.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with published_aside(path) as aside:
        with aside.open("wb") as file:
            archive: Any = _SealedFile(file)
            torch.save({"format_version": format_version} | content, archive)
            archive.seal()
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)


class _SealedFile:
    """What torch.save writes an archive to: it goes to the disk as it comes, and into the digest of the seal.

    The record that ends the archive is held back, since the seal is its comment. An error of the disk waits for `seal`:
    raised into torch, it would come back as one of torch's.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest = file, hashlib.sha256()
        self._end = b""
        self._error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        data = memoryview(data)
        if len(data) >= _END_BYTES:
            self._write(self._end)
            self._write(data[:-_END_BYTES])
            self._end = bytes(data[-_END_BYTES:])
        else:
            self._write((self._end + bytes(data))[:-_END_BYTES])
            self._end = (self._end + bytes(data))[-_END_BYTES:]
        return len(data)

    def flush(self) -> None:
        """As torch asks for it."""

    def seal(self) -> None:
        """Raises OSError when the disk has refused."""
        assert self._end[:4] == _END, "torch.save ends its archive with something else now"
        self._write(self._end[:-2] + _SEAL_BYTES.to_bytes(2, "little"))
        self._write(_SEAL + self._digest.hexdigest().encode())
        if self._error is not None:
            raise self._error

    def _write(self, data: bytes | memoryview) -> None:
        if self._error is not None:
            return
        self._digest.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            self._error = error


def read_checkpoint(path: Path, *, format_version: int, older: Collection[int] = ()) -> dict[str, Any] | None:
    """The content of a checkpoint in CPU memory, or None when there is none; of `older` versions too.

    Raises DamagedCheckpoint when a byte has changed, WorkError when it cannot be read or is of another version.
    """
    try:
        with path.open("rb") as file:
            _check_seal(file, path)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WorkError(f"{path} cannot be read ({error.strerror or error}); mend that and try again") from error
    except _UNREADABLE as error:
        if isinstance(error, MemoryError) or "alloc" in str(error):
            raise WorkError(f"{path} does not fit into the memory that is free; free some and try again") from error
        raise WorkError(f"{path} is no checkpoint that torch can load ({_first_line(error)})") from error
    if not isinstance(content, dict) or content.pop("format_version", None) not in (format_version, *older):
        raise WorkError(f"{path} is no checkpoint of this version of ci2p; give another --out")
    return content


def read_newest(path: Path, previous: Path, read: Callable[[Path], T | None]) -> tuple[T, Path] | None:
    """What `read` makes of the newest checkpoint that is whole, and which it is; None when there is none.

    Says so where that is `previous`. Whoever got it moves it into the newest's place before writing another, or the
    damaged one would become the previous. Raises WorkError when none is whole, and as `read` does.
    """
    try:
        newest = read(path)
        trouble = f"{path} is gone"
    except DamagedCheckpoint as error:
        newest, trouble = None, str(error)
    if newest is not None:
        return newest, path
    try:
        before = read(previous)
    except DamagedCheckpoint as error:
        raise WorkError(f"{trouble}, and {error}; give another --out to start afresh") from error
    if before is not None:
        logger.warning("%s; going on from %s, the one before it", trouble, previous.name)
        return before, previous
    if path.exists():
        raise WorkError(f"{trouble}, and there is none from before it; give another --out to start afresh")
    return None


def _check_seal(file: IO[bytes], path: Path) -> None:
    """Raises DamagedCheckpoint when a byte of a checkpoint is not as it was written."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _SEAL_BYTES))
    end = file.read()
    file.seek(0)
    if not end.startswith(_SEAL):
        # An older ci2p left no comment, and such an archive ends with its last record.
        if end[-_END_BYTES:][:4] != _END or end[-2:] != b"\x00\x00":
            raise DamagedCheckpoint(f"{path} is damaged (its end is missing)")
        _check_records(file, path)
        return
    digest, left = hashlib.sha256(), size - _SEAL_BYTES
    while left and (block := file.read(min(left, 2**20))):
        digest.update(block)
        left -= len(block)
    if end[len(_SEAL) :] != digest.hexdigest().encode():
        raise DamagedCheckpoint(f"{path} is damaged (its SHA-256 is not the one that was written)")


def _check_records(file: IO[bytes], path: Path) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            odd = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, LookupError) as error:
        raise DamagedCheckpoint(f"{path} is damaged ({_first_line(error)})") from error
    if odd is not None:
        raise DamagedCheckpoint(f"{path} is damaged (the CRC-32 of {odd!r} is another)")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
