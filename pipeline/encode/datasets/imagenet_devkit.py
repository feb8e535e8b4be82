"""ImageNet's development kit: the classes by number, and the number of each validation image's class."""

import re
import tarfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ci2p_cache.errors import InputError
from ci2p_cache.extras import not_installed
from ci2p_cache.user_text import decode_text, list_of

DEVKIT = "ILSVRC2012_devkit_t12"
GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
META = "data/meta.mat"
FROM = "get it from https://image-net.org/download-images (ILSVRC2012)"

_NUM_CLASSES = 1000
_WNID = re.compile(r"n[0-9]{8}")
_GZIP_MARK = b"\x1f\x8b"

# What the parsers of gzip, tar and Matlab files raise for damaged ones, and for numbers that are none.
_DAMAGE = (
    *(tarfile.TarError, zlib.error, EOFError, OSError, ValueError, LookupError, TypeError),
    *(OverflowError, NotImplementedError, MemoryError),
)


def read_devkit(path: Path) -> tuple[dict[str, str], dict[int, str]]:
    """(wnid -> names, image number from 1 -> wnid) of the devkit, packed or unpacked.

    Raises InputError, naming the file and, in the ground truth, the line, for a devkit that is damaged or incomplete.
    """
    ground_truth, meta = _read_unpacked(path) if path.is_dir() else _read_packed(path)
    synsets = _parse_synsets(meta, path)
    return dict(synsets.values()), _parse_truth(ground_truth, synsets, path)


def _read_unpacked(folder: Path) -> tuple[bytes, bytes]:
    for name in (GROUND_TRUTH, META):
        if not (folder / name).is_file():
            raise InputError(f"--data-dir: {folder} holds no {name}; {FROM}")
    try:
        return (folder / GROUND_TRUTH).read_bytes(), (folder / META).read_bytes()
    except OSError as error:
        raise InputError(f"--data-dir: cannot read {error.filename} ({error.strerror}); {FROM}") from error


def _read_packed(path: Path) -> tuple[bytes, bytes]:
    wanted: dict[str, bytes] = {}
    try:
        with path.open("rb") as file:  # browsers unpack a .gz on the way and leave its name as it was
            is_packed = file.read(2) == _GZIP_MARK
        with tarfile.open(path, "r:gz" if is_packed else "r:") as tar:
            for member in tar:
                for name in (GROUND_TRUTH, META):
                    member_file = tar.extractfile(member) if member.isreg() and member.name.endswith(name) else None
                    if member_file is not None:
                        wanted[name] = member_file.read()
    except _DAMAGE as error:
        raise InputError(f"--data-dir: {path} cannot be unpacked ({_reason(error)}); {FROM}") from error
    for name in (GROUND_TRUTH, META):
        if name not in wanted:
            raise InputError(f"--data-dir: {path} holds no {name}; {FROM}")
    return wanted[GROUND_TRUTH], wanted[META]


def _parse_synsets(meta: bytes, path: Path) -> dict[int, tuple[str, str]]:
    """Number -> (wnid, names) of the classes; numbers above the thousand are inner nodes and are left out."""
    try:
        from scipy.io import loadmat  # large, slow to import, and needed here alone
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise not_installed("imagenet", f"--dataset imagenet reads {META}", error) from error

    damaged = f"--data-dir: {path} does not hold the tables of the devkit"
    try:
        table: Any = np.atleast_1d(loadmat(BytesIO(meta), squeeze_me=True, variable_names=["synsets"])["synsets"])
        rows = [(int(row["ILSVRC2012_ID"]), str(row["WNID"]), row["words"]) for row in table]
    except (MatReadError, *_DAMAGE) as error:
        raise InputError(f"{damaged} ({_reason(error)} in {META}); {FROM}") from error
    synsets: dict[int, tuple[str, str]] = {}
    for number, wnid, words in rows:
        if number > _NUM_CLASSES:
            continue
        is_class = number > 0 and _WNID.fullmatch(wnid) and isinstance(words, str) and words.split(",")[0].strip()
        if not is_class or number in synsets or wnid in {wnid for wnid, _ in synsets.values()}:
            raise InputError(f"{damaged} ({META} has no such class, or has it twice: {number} {wnid!r}); {FROM}")
        synsets[number] = (wnid, words)
    if not synsets:
        raise InputError(f"{damaged} ({META} lists no classes); {FROM}")
    return synsets


def _parse_truth(ground_truth: bytes, synsets: dict[int, tuple[str, str]], path: Path) -> dict[int, str]:
    """The class of image n is the number on line n."""
    where = f"--data-dir: {path}: {GROUND_TRUTH}"
    wnid_of_number = {str(number): wnid for number, (wnid, _) in synsets.items()}
    val_wnids = {}
    for image, number in enumerate(list_of(decode_text(ground_truth, where), where), start=1):
        if number not in wnid_of_number:
            raise InputError(
                f"{where}, line {image}: {number[:40]!r} is no class's number, 1 to {max(synsets)}; {FROM}"
            )
        val_wnids[image] = wnid_of_number[number]
    return val_wnids


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
