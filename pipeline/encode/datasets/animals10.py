"""Animals-10: 26,179 photographs of ten animals, in folders with Italian names."""

from collections.abc import Sequence
from dataclasses import replace

from ci2p_cache.errors import InputError
from ci2p_cache.left_out import LeftOutFiles, merge_left_out
from ci2p_cache.printable import printable
from ci2p_cache.remote_path import AnyPath
from pipeline.encode.datasets.data_dir import data_place
from pipeline.encode.datasets.folder import find_class_folders
from pipeline.encode.datasets.found import FoundImages
from pipeline.encode.datasets.listing import leave_out_folder, list_folder, subfolders
from pipeline.encode.datasets.split_names import split_of_name

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
RAW = "raw-img"
BESIDE_RAW = f"images beside {RAW}/"
LAYOUT = f"expected DIR/{RAW} with the ten folders cane ... scoiattolo, those ten in DIR, or DIR/train and DIR/test"

_ENGLISH_OF = {**ENGLISH, **{name: name for name in ENGLISH.values()}}
_MAX_DEPTH = 3  # how far below --data-dir the data set is looked for, to name it


def find_animals10(data_dir: str | None, seed: int) -> FoundImages:
    """The folder as Kaggle serves it, a fifth of each class held out for val; or DIR/train and DIR/test (or val).

    Classes are the ten English names in alphabetical order, whichever language the folders speak.
    """
    root = data_place(data_dir, "animals10", LAYOUT)
    left_out = LeftOutFiles()
    contents = list_folder(root, "", left_out)
    raw = [name for name in contents.folders if name.lower() == RAW]
    if len(raw) > 1:
        raise InputError(
            f"--data-dir {printable(str(root))}: {raw[0]}/ and {raw[1]}/ are both named like {RAW}/; merge them"
        )
    if raw:
        for name in contents.images:
            left_out.add(BESIDE_RAW, printable(name), pictures=True)
        for name in contents.folders:
            if name not in raw:
                leave_out_folder(root, name, BESIDE_RAW, left_out)
        root = root / raw[0]
    found = find_class_folders(root, _english_names, default_fraction=DEFAULT_VAL_FRACTION, layout=LAYOUT)
    layout = f"Animals-10: {f'{raw[0]}/, ' if raw else ''}{found.layout}"
    return replace(found, layout=layout, left_out=merge_left_out(left_out.listed() if raw else (), found.left_out))


def _english_names(folder: AnyPath, names: Sequence[str], may_lack: bool) -> dict[str, str]:
    """Class folder -> English name. Raises InputError unless every animal has exactly one folder."""
    found = {name: _ENGLISH_OF[name.lower()] for name in names if name.lower() in _ENGLISH_OF}
    missing = [f"{italian} ({english})" for italian, english in ENGLISH.items() if english not in found.values()]
    if missing and not may_lack:
        inner = None if found else _data_set_below(folder, _MAX_DEPTH)
        way_out = f"give --data-dir {printable(str(inner))}" if inner else LAYOUT
        raise InputError(f"--data-dir {printable(str(folder))}: no folder for {', '.join(missing)}; {way_out}")
    twice = sorted(name for name in found if list(found.values()).count(found[name]) > 1)
    if twice:
        raise InputError(
            f"--data-dir {printable(str(folder))}: {' and '.join(twice)} are the same animal; merge the folders"
        )
    return found


def _data_set_below(folder: AnyPath, depth: int) -> AnyPath | None:
    """The folder below that holds raw-img/, the animals or splits of them."""
    names = subfolders(folder)
    if _holds_animals(names) or any(
        split_of_name(name) and _holds_animals(subfolders(folder / name)) for name in names
    ):
        return folder
    deeper = (_data_set_below(folder / name, depth - 1) for name in names) if depth else iter(())
    return next((found for found in deeper if found is not None), None)


def _holds_animals(names: Sequence[str]) -> bool:
    return any(name.lower() in (RAW, *_ENGLISH_OF) for name in names)
