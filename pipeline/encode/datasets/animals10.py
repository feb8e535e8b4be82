"""Animals-10: 26,179 photographs of ten animals, in folders with Italian names."""

from collections.abc import Sequence
from pathlib import Path

from ci2p_cache.errors import InputError
from pipeline.encode.datasets.folder import data_folder, find_class_folders, logger
from pipeline.encode.datasets.found import FoundImages

DEFAULT_VAL_FRACTION = 0.2

ENGLISH = {
    "cane": "dog",
    "cavallo": "horse",
    "elefante": "elephant",
    "farfalla": "butterfly",
    "gallina": "chicken",
    "gatto": "cat",
    "mucca": "cow",
    "pecora": "sheep",
    "ragno": "spider",
    "scoiattolo": "squirrel",
}
LAYOUT = "expected DIR/raw-img with the ten folders cane ... scoiattolo, those ten in DIR, or DIR/train and DIR/test"


def find_animals10(data_dir: str | None, seed: int) -> FoundImages:
    """The folder as Kaggle serves it, a fifth of each class held out for val; or DIR/train and DIR/test (or val).

    Classes are the ten English names in alphabetical order, whichever language the folders speak.
    """
    root = data_folder(data_dir, "animals10", LAYOUT)
    if (root / "raw-img").is_dir():
        root = root / "raw-img"
    return find_class_folders(root, _english_names, default_fraction=DEFAULT_VAL_FRACTION)


def _english_names(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Class folder -> English name. Raises InputError unless every animal has exactly one folder."""
    english_of = {**ENGLISH, **{name: name for name in ENGLISH.values()}}
    found = {name: english_of[name.lower()] for name in names if name.lower() in english_of}
    missing = [f"{italian} ({english})" for italian, english in ENGLISH.items() if english not in found.values()]
    if missing:
        raise InputError(f"--data-dir {folder}: no folder for {', '.join(missing)}; {LAYOUT}")
    if len(found) > len(ENGLISH):
        twice = sorted(name for name in found if list(found.values()).count(found[name]) > 1)
        raise InputError(f"--data-dir {folder}: {' and '.join(twice)} are the same animal; merge the folders")
    others = [name for name in names if name not in found]
    if others:
        logger.warning("%s: folders that are none of the ten animals are left out: %s", folder, ", ".join(others[:3]))
    return found
