"""Which files of many images, tars or tables, make up a data set, and which split each belongs to.

`--data-dir` is one of
* a local folder: the files in it, and in those of its folders that are called like a split (train/, Validation/, ...);
* a path or URL of files, with {000..127}, {train,val} and glob patterns: "s3://bucket/set/{train,val}-{000..127}.tar";
* a URL that does not end like such a file: a folder on a server that can list, taken like a local one.

A file belongs to the split that its name says, as a word of its own (train-000.tar, ILSVRC2012_img_val.tar), else the
one that the folder around it is called. When no file says anything, all of them are one set that a validation part is
held out of. Case does not matter, nor does it in ".tar".
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


@dataclass(frozen=True)
class PackedKind:
    """A kind of file that holds many images."""

    suffix: str  # ".tar"
    plural: str  # "tars"
    compressed: re.Pattern[str] | None = None  # names of what has to be decompressed first
    beside: str | None = None  # a file that may lie among them and is no stray

    @property
    def layout(self) -> str:
        """What is expected, for messages."""
        end = self.suffix
        return (
            f"expected a folder with train/*{end} and val/*{end} or with *train*{end} and *val*{end}, or a pattern "
            f"such as 's3://bucket/{{train,val}}-{{000..127}}{end}'"
        )

    @property
    def elsewhere(self) -> str:
        return f"{self.plural} in other folders"

    def is_name(self, name: str) -> bool:
        return name.lower().endswith(self.suffix)

    def is_compressed(self, name: str) -> bool:
        return self.compressed is not None and self.compressed.search(name) is not None


@dataclass(frozen=True)
class PackedFiles:
    """Sorted files by split, in the order of SPLITS; or all of them as WHOLE when none says its split."""

    parts: Mapping[str, tuple[str, ...]]
    left_out: tuple[LeftOut, ...] = ()


def find_packed(data_dir: str, kind: PackedKind) -> PackedFiles:
    """The files that `data_dir` stands for. Raises InputError when there are none, or only some say their split."""
    where = f"--data-dir {printable(data_dir)}"
    left_out = LeftOutFiles()
    if not data_dir.strip():
        raise InputError(f"--data-dir '{printable(data_dir)}': that is no name; {kind.layout}")
    places, root, path = places_of(data_dir)
    folder = f"{root}/{path}"
    if is_url(folder):
        is_folder = not any(kind.is_name(each) or kind.is_compressed(each) for each in expand_braces(path))
        if is_folder and has_pattern(path) and not places.exists(folder):
            is_folder, path = False, f"{path}/*{_any_case(kind.suffix)}"
    else:
        is_folder = places.is_folder(folder)
    if is_folder:
        files = _of_folder(places, folder, where, kind, left_out)
    else:
        files = _of_pattern(places, root, path, where, kind, left_out)
    query = data_dir.removeprefix(without_query(data_dir))
    files = [file + query for file in files]
    if not files:
        elsewhere = next((each for each in left_out.listed() if each.what == kind.elsewhere), None)
        if elsewhere is not None:
            raise InputError(
                f"{where}: there are no {kind.suffix} files in it; {elsewhere.names[0]} and others lie deeper, in "
                "folders that are called like no split; give their folder"
            )
        raise InputError(f"{where}: there are no {kind.suffix} files; {kind.layout}")
    return PackedFiles(_by_split(sorted(set(files)), where), left_out.listed())


def _by_split(files: list[str], where: str) -> dict[str, tuple[str, ...]]:
    parts: dict[str, list[str]] = {}
    for file in files:
        parts.setdefault(split_of(file), []).append(file)
    if "" not in parts:
        return {split: tuple(parts[split]) for split in SPLITS if split in parts}
    if len(parts) > 1:
        raise InputError(
            f"{where}: {printable(parts[''][0])} does not say whether it is train or val, others do; "
            "rename it or narrow the pattern"
        )
    return {WHOLE: tuple(files)}


def split_of(path: str) -> str:
    """ "train", "val", "test" or "" by a word in the file's name, else by the whole name of its folder.

    A word in the folder's name would not do: test-run/000.tar tells of a run, not of a split.
    """
    folder, _, name = without_query(path).rpartition("/")
    said = splits_in(name)
    if not said:
        return split_of_name(folder.rpartition("/")[2]) or ""
    return said.pop() if len(said) == 1 else ""


def _any_case(suffix: str) -> str:
    """A glob for a suffix: "[.][tT][aA][rR]"."""
    return "".join(f"[{letter}{letter.upper()}]" if letter.isalpha() else letter for letter in suffix)


def _of_pattern(
    places: Places, base: str, pattern: str, where: str, kind: PackedKind, left_out: LeftOutFiles
) -> list[str]:
    """The files that a pattern names; what a glob finds besides is counted."""
    found: list[str] = []
    compressed: list[str] = []
    for path, is_globbed in find_pattern(places, base, pattern, kind.layout):
        name = path.rpartition("/")[2]
        if kind.is_compressed(name):
            compressed.append(path)
        elif not is_globbed:
            found.append(path)
        elif name.startswith("."):
            left_out.add(HIDDEN, printable(name))
        elif kind.is_name(name) and places.is_file(path):
            found.append(path)
        elif places.is_folder(path):
            raise InputError(f"{where}: {printable(path)} is a folder; end the pattern in /*{kind.suffix}")
        elif name != kind.beside:
            _leave_out(path, name, kind, left_out)
    _check_compressed(compressed, where)
    return found


def _of_folder(places: Places, folder: str, where: str, kind: PackedKind, left_out: LeftOutFiles) -> list[str]:
    """The files of a kind in a folder and in its folders of splits; everything else in it is counted."""
    found: list[str] = []
    compressed: list[str] = []
    pending = [(folder, "", 0, True)]
    while pending:
        here, relative, depth, is_part = pending.pop()
        folders, files = places.entries(here)
        for name in files:
            path, shown = f"{here}/{name}", printable(relative + name)
            if name.startswith("."):
                left_out.add(HIDDEN, shown)
            elif kind.is_compressed(name):
                compressed.append(shown)
            elif not kind.is_name(name) or not places.is_file(path):
                if not (is_part and name == kind.beside):
                    _leave_out(path, shown, kind, left_out)
            elif is_part:
                found.append(path)
            else:
                left_out.add(kind.elsewhere, shown, pictures=True)
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
    return found


def _leave_out(path: str, shown: str, kind: PackedKind, left_out: LeftOutFiles) -> None:
    if looks_like_image(path):
        left_out.add(f"images outside of the {kind.plural}", shown, pictures=True)
    elif kind.is_name(path):
        left_out.add(f"pipes, devices and broken links called {kind.suffix}", shown, pictures=True)
    else:
        left_out.add(f"files that are no {kind.plural}", shown)


def _check_compressed(names: list[str], where: str) -> None:
    if names:
        first = printable(sorted(names)[0])
        subject = f"{first} and {len(names) - 1} more are" if len(names) > 1 else f"{first} is"
        raise InputError(
            f"{where}: {subject} compressed, and images are read from where they lie in a tar; decompress "
            f"first (gunzip {first.rpartition('/')[2]}, or bunzip2, unxz, unzstd), or move it away"
        )
