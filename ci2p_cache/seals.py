"""Seals: what a file of a split is known by, and a file of JSON that carries its own (promise C6).

manifest.json, shards/000000.json    {..., "seal":"SHA-256 of the same object without this field"}
manifest.json, `files`               every other file of the split -> (SHA-256, length in bytes)
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ci2p_cache.errors import WorkError
from ci2p_cache.publish import is_aside
from ci2p_cache.remote_files import TooLong, files_below, read_file
from ci2p_cache.remote_path import AnyPath, RemotePath

MANIFEST = "manifest.json"
_TAIL = re.compile(rb',"seal":"([0-9a-f]{64})"\}')
_TAIL_BYTES = len(',"seal":""}') + 64


class FileSeal(NamedTuple):
    """What a file holds: its SHA-256 in hexadecimal digits, and its length in bytes."""

    sha256: str
    num_bytes: int


Seals = Mapping[str, FileSeal]  # of a split's files, by their paths relative to its folder


def seal_of(*parts: bytes | memoryview) -> FileSeal:
    """Of the file that holds these, one after another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return FileSeal(digest.hexdigest(), sum(map(len, parts)))


def seal_json(body: bytes) -> bytes:
    """A JSON object as compact text -> the same with its seal as last field; any changed byte of that is found."""
    assert body.endswith(b"}") and len(body) > len(b"{}")
    return body[:-1] + b',"seal":"' + hashlib.sha256(body).hexdigest().encode() + b'"}'


def unseal_json(data: bytes) -> bytes | None:
    """What `seal_json` was given; None when the data are not what it gave."""
    tail = _TAIL.fullmatch(data[-_TAIL_BYTES:])
    body = data[:-_TAIL_BYTES] + b"}"
    if tail is None or hashlib.sha256(body).hexdigest().encode() != tail[1]:
        return None
    return body


def check_seal(data: bytes | memoryview, name: str, seals: Seals | None, split_dir: str | AnyPath) -> None:
    """Raises WorkError unless the data are what the seals have under `name`; without seals nothing is known."""
    if seals is not None and seals.get(name) != seal_of(data):
        raise WorkError(f"{split_dir}/{name} has changed since it was written; run `ci2p verify`")


def find_damage(split_dir: AnyPath, name: str, seal: FileSeal) -> str | None:
    """What is wrong with a file of a split, "missing", say; None when it is as it was written."""
    if isinstance(split_dir, RemotePath):
        return _find_remote_damage(split_dir / name, seal)
    path = split_dir / name
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return "not a file"
        if found.st_size != seal.num_bytes:
            return f"{found.st_size} bytes instead of {seal.num_bytes}"
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if digest == seal.sha256 else "changed (its sha256 is not that of the manifest)"


def _find_remote_damage(path: RemotePath, seal: FileSeal) -> str | None:
    """As `find_damage`; raises OSError where its server does not say, for then nothing is known of the file."""
    try:
        data = read_file(path.url, num_bytes=seal.num_bytes)
    except FileNotFoundError:
        return "missing"
    except TooLong as error:
        return f"{error.num_bytes} bytes instead of {seal.num_bytes}"
    if len(data) != seal.num_bytes:
        return f"{len(data)} bytes instead of {seal.num_bytes}"
    return None if seal_of(data) == seal else "changed (its sha256 is not that of the manifest)"


def unknown_files(split_dir: AnyPath, seals: Seals) -> list[str]:
    """What lies in a split's folder and is none of its files, by relative path.

    What a process has written aside is passed over: whoever writes next sweeps it.
    """
    parents = {parent.as_posix() for name in seals for parent in PurePosixPath(name).parents}
    known = {*seals, *parents, MANIFEST}
    return sorted(name for name in _walk(split_dir) if name not in known)


def _walk(split_dir: AnyPath) -> Iterator[str]:
    """Every file and every link to a folder, which may be one of the split's own that lies elsewhere."""
    if isinstance(split_dir, RemotePath):
        yield from files_below(split_dir.url)
        return
    for folder, folders, files in os.walk(split_dir):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in [*files, *links]:
            path = Path(folder) / name
            if not is_aside(path):
                yield path.relative_to(split_dir).as_posix()
