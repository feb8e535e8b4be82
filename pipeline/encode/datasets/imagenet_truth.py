"""What ImageNet's image files do not say themselves: English names, and the class of each validation image."""

import csv
import re
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ci2p_cache.errors import InputError

DEVKIT = "ILSVRC2012_devkit_t12"
GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
META = "data/meta.mat"
FROM = "get it from https://image-net.org/download-images (ILSVRC2012)"

_NUM_CLASSES = 1000
_VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")


@dataclass(frozen=True)
class ImagenetTruth:
    """`words`: wnid -> "tench, Tinca tinca", for the classes only. `val_wnids`: image number (from 1) -> wnid."""

    words: dict[str, str]
    val_wnids: dict[int, str]

    def wnid_of(self, image_name: str) -> str:
        """The class of a validation image. Raises InputError when the ground truth does not list it."""
        match = _VAL_NAME.match(image_name)
        wnid = self.val_wnids.get(int(match[1])) if match else None
        if wnid is None:
            raise InputError(
                f"--data-dir: the ground truth lists {len(self.val_wnids)} validation images and {image_name} is none "
                f"of them; the images and {DEVKIT} must belong together"
            )
        return wnid


def find_truth(root: Path) -> ImagenetTruth | None:
    """The devkit in `root` (the .tar.gz or unpacked), else Kaggle's two tables, else None.

    Raises InputError when the devkit is there and incomplete.
    """
    packed, unpacked = root / f"{DEVKIT}.tar.gz", root / DEVKIT
    if packed.is_file():
        return _parse_devkit(*_read_packed(packed), packed)
    if unpacked.is_dir():
        try:
            return _parse_devkit((unpacked / GROUND_TRUTH).read_bytes(), (unpacked / META).read_bytes(), unpacked)
        except OSError as error:
            raise InputError(f"--data-dir {root}: cannot read {error.filename}; {FROM}") from error
    names, answers = root / "LOC_synset_mapping.txt", root / "LOC_val_solution.csv"
    if names.is_file() and answers.is_file():
        return _parse_kaggle(names, answers)
    return None


def class_names(wnids: Iterable[str], words: dict[str, str]) -> tuple[str, ...]:
    """The first English name of each wnid, or the wnid where none is known.

    Two of the thousand classes are cranes and two are maillots: such names get their wnid in brackets.
    """
    wnids = list(wnids)
    first = [words[wnid].split(",")[0].strip() if wnid in words else wnid for wnid in wnids]
    return tuple(f"{name} ({wnid})" if first.count(name) > 1 else name for name, wnid in zip(first, wnids, strict=True))


def _read_packed(path: Path) -> tuple[bytes, bytes]:
    wanted: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                for name in (GROUND_TRUTH, META):
                    file = tar.extractfile(member) if member.name.endswith(name) else None
                    if file is not None:
                        wanted[name] = file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(f"--data-dir: {path} cannot be unpacked ({error}); {FROM}") from error
    for name in (GROUND_TRUTH, META):
        if name not in wanted:
            raise InputError(f"--data-dir: {path} holds no {name}; {FROM}")
    return wanted[GROUND_TRUTH], wanted[META]


def _parse_devkit(ground_truth: bytes, meta: bytes, path: Path) -> ImagenetTruth:
    from scipy.io import loadmat  # slow to import, and needed here alone
    from scipy.io.matlab import MatReadError

    try:
        synsets: Any = np.atleast_1d(loadmat(BytesIO(meta), squeeze_me=True)["synsets"])
        rows = [(int(row["ILSVRC2012_ID"]), str(row["WNID"]), str(row["words"])) for row in synsets]
        numbers = [int(line) for line in ground_truth.split()]
        wnid_of_id = {number: wnid for number, wnid, _ in rows if number <= _NUM_CLASSES}  # above lie the inner nodes
        val_wnids = {image: wnid_of_id[number] for image, number in enumerate(numbers, start=1)}
    except (MatReadError, ValueError, LookupError, TypeError, NotImplementedError, zlib.error) as error:
        raise InputError(f"--data-dir: {path} does not hold the tables of the devkit ({error}); {FROM}") from error
    return ImagenetTruth({wnid: words for number, wnid, words in rows if number <= _NUM_CLASSES}, val_wnids)


def _parse_kaggle(names: Path, answers: Path) -> ImagenetTruth:
    """Lines "n01440764 tench, Tinca tinca", and rows ImageId, "n01440764 left top right bottom ..."."""
    words = dict(line.split(maxsplit=1) for line in names.read_text("utf-8").splitlines() if line.strip())
    with answers.open(newline="", encoding="utf-8") as file:
        val_wnids = {
            int(match[1]): row["PredictionString"].split()[0]
            for row in csv.DictReader(file)
            if (match := _VAL_NAME.match(row["ImageId"]))
        }
    return ImagenetTruth(words, val_wnids)
