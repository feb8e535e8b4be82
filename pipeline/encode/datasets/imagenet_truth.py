"""What ImageNet's image files do not say themselves: English names, and the class of each validation image."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ci2p_cache.errors import InputError
from pipeline.encode.datasets.imagenet_devkit import DEVKIT, read_devkit
from pipeline.encode.datasets.kaggle_tables import ANSWERS, MAPPING, read_answers, read_mapping

_VAL_NAME = re.compile(r"ILSVRC2012_val_([0-9]{8})")


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

    Raises InputError, naming the file and, in a text, the line, when what is there cannot be used.
    """
    packed, unpacked = root / f"{DEVKIT}.tar.gz", root / DEVKIT
    if packed.is_file() or unpacked.is_dir():
        return ImagenetTruth(*read_devkit(packed if packed.is_file() else unpacked))
    if (root / MAPPING).is_file() and (root / ANSWERS).is_file():
        return ImagenetTruth(read_mapping(root / MAPPING), read_answers(root / ANSWERS))
    return None


def class_names(wnids: Iterable[str], words: dict[str, str]) -> tuple[str, ...]:
    """The first English name of each wnid, or the wnid where none is known; no two are the same.

    Two of the thousand classes are cranes and two are maillots: such names get their wnid in brackets.
    """
    wnids = list(wnids)
    names = [words[wnid].split(",")[0].strip() if wnid in words else wnid for wnid in wnids]
    while len(set(names)) < len(names):  # a second turn only where somebody named a class "crane (n02012849)"
        count = Counter(names)
        names = [f"{name} ({wnid})" if count[name] > 1 else name for name, wnid in zip(names, wnids, strict=True)]
    return tuple(names)
