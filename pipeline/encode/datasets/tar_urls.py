"""Which tars make up a data set, and which split each belongs to.

`--data-dir` is one of
* a local folder: the tars in it, and in its folders train/, val/ (or validation/, valid/) and test/;
* a path or URL of tars, with {000..127}, {train,val} and glob patterns: "s3://bucket/set/{train,val}-{000..127}.tar";
* a URL that does not end in .tar: a folder on a server that can list, taken like a local one.

A tar belongs to the split that its file name says, as a word of its own (train-000.tar, ILSVRC2012_img_val.tar), else
the one that the folder around it is called. test stands in where nothing says val. When no tar says anything, all of
them are one set that a validation part is held out of.
"""

import glob
import itertools
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec

from ci2p_cache.errors import InputError
from pipeline.encode.datasets.tar_members import is_url

LAYOUT = (
    "expected a folder with train/*.tar and val/*.tar or with *train*.tar and *val*.tar, or a pattern such as "
    "'s3://bucket/{train,val}-{000..127}.tar'"
)

_WORD = re.compile(r"(?<![a-z])(train|training|val|valid|validation|test)(?![a-z])")
_SPLIT_OF_WORD = {"train": "train", "training": "train", "test": "test"}
_FOLDERS = ("", "train/", "training/", "val/", "valid/", "validation/", "test/")
_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class TarUrls:
    """Sorted tars by split. `whole` holds all of them when none says its split; then train and val are empty."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    whole: tuple[str, ...]


def find_tars(data_dir: str) -> TarUrls:
    """The tars that `data_dir` stands for. Raises InputError when there are none, or only some say their split."""
    tars = sorted(set(_list_tars(data_dir)))
    if not tars:
        raise InputError(f"--data-dir {data_dir}: there are no .tar files; {LAYOUT}")
    by_split: dict[str, list[str]] = {"train": [], "val": [], "test": [], "": []}
    for tar in tars:
        by_split[split_of(tar)].append(tar)
    if by_split[""]:
        if len(by_split[""]) < len(tars):
            raise InputError(
                f"--data-dir {data_dir}: {by_split[''][0]} does not say whether it is train or val, others do; "
                "rename it or narrow the pattern"
            )
        return TarUrls((), (), tuple(tars))
    return TarUrls(tuple(by_split["train"]), tuple(by_split["val"] or by_split["test"]), ())


def split_of(tar: str) -> str:
    """ "train", "val", "test" or "" by a word in the file's name, else by the whole name of its folder.

    A word in the folder's name would not do: test-run/000.tar tells of a run, not of a split.
    """
    folder, name = posixpath.split(tar.lower())
    around = posixpath.basename(folder)
    words = _WORD.findall(name) or ([around] if _WORD.fullmatch(around) else [])
    splits = {_SPLIT_OF_WORD.get(word, "val") for word in words}
    return splits.pop() if len(splits) == 1 else ""


def expand_braces(pattern: str) -> list[str]:
    """ "a-{00..02}.tar" -> a-00.tar a-01.tar a-02.tar; {x,y} likewise; several braces make every combination."""
    parts = _BRACES.split(pattern)  # text, inside of braces, text, ...
    choices = [[part] if i % 2 == 0 else _choices(part) for i, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _choices(inside: str) -> list[str]:
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if bounds is None:
        return inside.split(",")
    first, last = bounds.groups()
    width = len(first) if first.startswith("0") or len(first) == len(last) else 0
    return [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]


def _list_tars(data_dir: str) -> list[str]:
    if is_url(data_dir):
        patterns = expand_braces(data_dir)
        if not posixpath.basename(data_dir).endswith(".tar"):
            patterns = [f"{pattern.rstrip('/')}/{folder}*.tar" for pattern in patterns for folder in _FOLDERS]
        return [tar for pattern in patterns for tar in _glob_remote(pattern)]
    root = Path(data_dir).expanduser().absolute()
    if root.is_dir():
        return [str(tar) for folder in _FOLDERS for tar in (root / folder).glob("*.tar") if tar.name[0] != "."]
    return [tar for pattern in expand_braces(str(root)) for tar in _local(pattern)]


def _local(pattern: str) -> Sequence[str]:
    if glob.has_magic(pattern):
        return glob.glob(pattern)  # noqa: PTH207  (a pattern may be absolute, which Path.glob refuses)
    if not Path(pattern).is_file():
        raise InputError(f"--data-dir: there is no file or folder {pattern}; {LAYOUT}")
    return [pattern]


def _glob_remote(pattern: str) -> list[str]:
    if not glob.has_magic(pattern):
        return [pattern]  # a missing tar is found when it is opened
    try:
        filesystem, path = fsspec.core.url_to_fs(pattern)
        return [str(filesystem.unstrip_protocol(name)) for name in filesystem.glob(path)]
    except FileNotFoundError:
        return []
    except (OSError, ImportError, ValueError) as error:
        raise InputError(f"--data-dir: cannot list {pattern}: {error}") from error
