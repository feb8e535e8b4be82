"""Which tars make up a data set, and which split each belongs to.

`--data-dir` is one of
* a local folder: the tars in it, and in those of its folders that are called like a split (train/, Validation/, ...);
* a path or URL of tars, with {000..127}, {train,val} and glob patterns: "s3://bucket/set/{train,val}-{000..127}.tar";
* a URL that does not end in .tar: a folder on a server that can list, taken like a local one.

A tar belongs to the split that its file name says, as a word of its own (train-000.tar, ILSVRC2012_img_val.tar), else
the one that the folder around it is called. When no tar says anything, all of them are one set that a validation part
is held out of. Case does not matter, nor does it in ".tar".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ci2p_cache.errors import InputError
from ci2p_cache.left_out import LeftOut, LeftOutFiles
from ci2p_cache.printable import printable
from pipeline.encode.datasets.found import SPLITS, WHOLE
from pipeline.encode.datasets.listing import HIDDEN, OWN_OUTPUT
from pipeline.encode.datasets.own_output import is_own_output
from pipeline.encode.datasets.path_patterns import expand_braces, find_pattern, has_pattern
from pipeline.encode.datasets.places import Places, places_of, without_query
from pipeline.encode.datasets.split_names import split_of_name, splits_in
from pipeline.encode.datasets.tar_members import is_url
from pipeline.encode.formats import looks_like_image

CLASSES_FILE = "classes.txt"
LAYOUT = (
    "expected a folder with train/*.tar and val/*.tar or with *train*.tar and *val*.tar, or a pattern such as "
    "'s3://bucket/{train,val}-{000..127}.tar'"
)

_COMPRESSED = re.compile(r"\.(?:tar\.(?:gz|bz2|xz|zst|lz4|lzma|z|br)|tgz|tbz2?|txz|tzst|tlz4?|taz)$", re.IGNORECASE)
_TARS_ELSEWHERE = "tars in other folders"


@dataclass(frozen=True)
class TarUrls:
    """Sorted tars by split, in the order of SPLITS; or all of them as WHOLE when none says its split."""

    parts: Mapping[str, tuple[str, ...]]
    left_out: tuple[LeftOut, ...] = ()


def find_tars(data_dir: str) -> TarUrls:
    """The tars that `data_dir` stands for. Raises InputError when there are none, or only some say their split."""
    where = f"--data-dir {printable(data_dir)}"
    left_out = LeftOutFiles()
    if not data_dir.strip():
        raise InputError(f"--data-dir '{printable(data_dir)}': that is no name; {LAYOUT}")
    places, root, path = places_of(data_dir)
    folder = f"{root}/{path}"
    if is_url(folder):
        is_folder = not any(is_tar_name(each) or _COMPRESSED.search(each) for each in expand_braces(path))
        if is_folder and has_pattern(path) and not places.exists(folder):
            is_folder, path = False, f"{path}/*.[tT][aA][rR]"
    else:
        is_folder = places.is_folder(folder)
    if is_folder:
        tars = _of_folder(places, folder, where, left_out)
    else:
        tars = _of_pattern(places, root, path, where, left_out)
    query = data_dir.removeprefix(without_query(data_dir))
    tars = [tar + query for tar in tars]
    if not tars:
        elsewhere = next((each for each in left_out.listed() if each.what == _TARS_ELSEWHERE), None)
        if elsewhere is not None:
            raise InputError(
                f"{where}: there are no .tar files in it; {elsewhere.names[0]} and others lie deeper, in folders that "
                "are called like no split; give their folder"
            )
        raise InputError(f"{where}: there are no .tar files; {LAYOUT}")
    return TarUrls(_by_split(sorted(set(tars)), where), left_out.listed())


def _by_split(tars: list[str], where: str) -> dict[str, tuple[str, ...]]:
    parts: dict[str, list[str]] = {}
    for tar in tars:
        parts.setdefault(split_of(tar), []).append(tar)
    if "" not in parts:
        return {split: tuple(parts[split]) for split in SPLITS if split in parts}
    if len(parts) > 1:
        raise InputError(
            f"{where}: {printable(parts[''][0])} does not say whether it is train or val, others do; "
            "rename it or narrow the pattern"
        )
    return {WHOLE: tuple(tars)}


def split_of(tar: str) -> str:
    """ "train", "val", "test" or "" by a word in the file's name, else by the whole name of its folder.

    A word in the folder's name would not do: test-run/000.tar tells of a run, not of a split.
    """
    folder, _, name = without_query(tar).rpartition("/")
    said = splits_in(name)
    if not said:
        return split_of_name(folder.rpartition("/")[2]) or ""
    return said.pop() if len(said) == 1 else ""


def is_tar_name(name: str) -> bool:
    return name.lower().endswith(".tar")


def _of_pattern(places: Places, base: str, pattern: str, where: str, left_out: LeftOutFiles) -> list[str]:
    """The files that a pattern names; what a glob finds besides tars is counted."""
    tars: list[str] = []
    compressed: list[str] = []
    for path, is_globbed in find_pattern(places, base, pattern, LAYOUT):
        name = path.rpartition("/")[2]
        if _COMPRESSED.search(name):
            compressed.append(path)
        elif not is_globbed:
            tars.append(path)
        elif name.startswith("."):
            left_out.add(HIDDEN, printable(name))
        elif is_tar_name(name) and places.is_file(path):
            tars.append(path)
        elif places.is_folder(path):
            raise InputError(f"{where}: {printable(path)} is a folder; end the pattern in /*.tar")
        elif name != CLASSES_FILE:
            _leave_out(path, name, left_out)
    _check_compressed(compressed, where)
    return tars


def _of_folder(places: Places, folder: str, where: str, left_out: LeftOutFiles) -> list[str]:
    """The tars in a folder and in its folders of splits; everything else in it is counted."""
    tars: list[str] = []
    compressed: list[str] = []
    pending = [(folder, "", 0, True)]
    while pending:
        here, relative, depth, is_part = pending.pop()
        folders, files = places.entries(here)
        for name in files:
            path, shown = f"{here}/{name}", printable(relative + name)
            if name.startswith("."):
                left_out.add(HIDDEN, shown)
            elif _COMPRESSED.search(name):
                compressed.append(shown)
            elif not is_tar_name(name) or not places.is_file(path):
                if not (is_part and name == CLASSES_FILE):
                    _leave_out(path, shown, left_out)
            elif is_part:
                tars.append(path)
            else:
                left_out.add(_TARS_ELSEWHERE, shown, pictures=True)
        for name in folders:
            inner = f"{here}/{name}"
            is_inner_part = depth == 0 and split_of_name(name) is not None
            shown = printable(f"{relative}{name}/")
            if name.startswith("."):
                left_out.add(HIDDEN, shown)
            elif not is_url(inner) and is_own_output(inner):
                left_out.add(OWN_OUTPUT, shown)
            elif is_inner_part or (depth < places.num_folders_deep and not places.is_link(inner)):
                pending.append((inner, f"{relative}{name}/", depth + 1, is_inner_part))
            else:  # links may make a circle
                left_out.add("folders that are not looked into", shown)
    _check_compressed(compressed, where)
    return tars


def _leave_out(path: str, shown: str, left_out: LeftOutFiles) -> None:
    if looks_like_image(path):
        left_out.add("images outside of the tars", shown, pictures=True)
    elif is_tar_name(path):
        left_out.add("pipes, devices and broken links called .tar", shown, pictures=True)
    else:
        left_out.add("files that are no tars", shown)


def _check_compressed(names: list[str], where: str) -> None:
    if names:
        first = printable(sorted(names)[0])
        subject = f"{first} and {len(names) - 1} more are" if len(names) > 1 else f"{first} is"
        raise InputError(
            f"{where}: {subject} compressed, and images are read from where they lie in a tar; decompress "
            f"first (gunzip {first.rpartition('/')[2]}, or bunzip2, unxz, unzstd), or move it away"
        )
