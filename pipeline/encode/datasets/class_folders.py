"""One part of a data set: a folder that holds a folder for each class."""

import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ci2p_cache.errors import InputError
from ci2p_cache.left_out import LeftOut, LeftOutFiles, merge_left_out
from ci2p_cache.packed_strings import PackedStrings
from ci2p_cache.printable import printable
from ci2p_cache.regular_file import read_regular
from ci2p_cache.remote_path import AnyPath, RemotePath
from pipeline.encode.datasets.keys import item_keys
from pipeline.encode.datasets.listing import image_files, leave_out_folder, list_folder
from pipeline.encode.datasets.remote_folder import remote_images
from pipeline.encode.datasets.split import SourceSplit, Stamp, sorted_split
from pipeline.encode.datasets.split_names import speaks_of_splits, split_folders

LAYOUT = "expected DIR/train/CLASS/x.jpg and DIR/val/CLASS/x.jpg, or DIR/CLASS/x.jpg"
BESIDE_CLASSES = "images beside the class folders"
NO_CLASS = "images in folders that are none of the classes"


@dataclass(frozen=True, eq=False)
class FolderFiles:
    """An ImageSource: files below a folder, by relative name."""

    root: str
    names: PackedStrings

    def read(self, row: int) -> bytes:
        return read_regular(Path(self.root, self.names[row]))

    def stamp(self, row: int) -> Stamp:
        found = os.stat(os.path.join(self.root, self.names[row]))  # noqa: PTH116, PTH118  (a Path each costs more)
        return Stamp(found.st_size, found.st_mtime_ns)


def class_split(
    root: AnyPath,
    class_of_folder: Mapping[str, str],
    classes: tuple[str, ...] | None = None,
    *,
    shown: str = "",
    layout: str = LAYOUT,
) -> SourceSplit:
    """The images below root/FOLDER for each class folder, at any depth; `classes` defaults to the sorted names.

    Everything else in `root` is counted and named, with `shown` ("train/") before it. Raises InputError when there is
    no class, no image, a class without images, or what looks like a class and is not; but where `classes` are given,
    single ones may be missing or empty.
    """
    beside = LeftOutFiles()
    contents = list_folder(root, shown, beside)
    part = _Part(root, printable(shown), layout)
    if not contents.folders:
        raise part.without_classes(contents.images, beside.listed())
    for name in contents.images:
        beside.add(BESIDE_CLASSES, printable(f"{shown}{name}"), pictures=True)
    for folder in contents.folders:
        if folder not in class_of_folder:
            leave_out_folder(root, folder, NO_CLASS, beside, shown=shown)
    images_in: dict[str, list[str]] = {}
    folders_in: dict[str, tuple[str, ...]] = {}
    left_out_in: dict[str, tuple[LeftOut, ...]] = {}
    for folder in class_of_folder:
        here = LeftOutFiles()
        images_in[folder] = image_files(root, folder, here, shown=shown, on_folders=folders_in.__setitem__)
        left_out_in[folder] = here.listed()
    part.check_for_splits(folders_in)
    if classes is None:
        part.check_classes(images_in, folders_in, left_out_in)
    left_out = merge_left_out(beside.listed(), *left_out_in.values())
    names = [name for images in images_in.values() for name in images]
    if not names:
        raise part.without_images(part.shown or "the folder", left_out)
    label_of = {name: label for label, name in enumerate(classes or sorted(set(class_of_folder.values())))}
    labels = [label_of[class_of_folder[folder]] for folder, images in images_in.items() for _ in images]
    files = remote_images(root, names) if isinstance(root, RemotePath) else FolderFiles(str(root), PackedStrings(names))
    return sorted_split(tuple(label_of), item_keys(names), labels, files, left_out)


@dataclass(frozen=True)
class _Part:
    """A folder of class folders, for messages about it."""

    root: AnyPath
    shown: str  # "train/" below --data-dir, or empty for --data-dir itself
    layout: str

    @property
    def where(self) -> str:
        above = len(Path(self.shown).parts)
        root = self.root
        for _ in range(above):
            root = root.parent
        return f"--data-dir {printable(str(root))}"

    def without_classes(self, images: Sequence[str], left_out: tuple[LeftOut, ...]) -> InputError:
        here = f"{self.shown}: " if self.shown else ""
        if images:
            what = (
                f"images lie in it directly, without class folders ({printable(images[0])}, ...); "
                "move those of each class into a folder of its name"
            )
        else:
            what = f"there is no class folder in it{_instead(left_out)}"
        return InputError(f"{self.where}: {here}{what}; {self.layout}")

    def without_images(self, what: str, left_out: tuple[LeftOut, ...]) -> InputError:
        instead = _instead(left_out) or ", it is empty"
        return InputError(f"{self.where}: {what} holds no images{instead}; fill or remove it; {self.layout}")

    def check_classes(
        self,
        images_in: Mapping[str, Sequence[str]],
        folders_in: Mapping[str, Sequence[str]],
        left_out_in: Mapping[str, tuple[LeftOut, ...]],
    ) -> None:
        """Raises InputError for classes that are named like splits, that hold the classes, or that hold no images."""
        names = list(images_in)
        are_all_deep = all(name in folders_in for name in names)
        if names and (len(split_folders(names)) == len(names) or (are_all_deep and speaks_of_splits(names))):
            raise InputError(
                f"{self.where}: {self.shown or 'it'} holds {_listed(names)} where class folders were expected, and "
                f"they are named like splits; rename them; {self.layout}"
            )
        full = [name for name, images in images_in.items() if images]
        if len(full) == 1:
            self.check_for_classes(images_in[full[0]])
        for name, images in images_in.items():
            if not images:
                raise self.without_images(f"the class folder {self.shown}{printable(name)}/", left_out_in[name])

    def check_for_splits(self, folders_in: Mapping[str, Sequence[str]]) -> None:
        """Raises InputError when a class folder holds splits, at any depth: it lies around a data set."""
        holders = sorted((f for f in folders_in if _holds_splits(f, folders_in)), key=lambda f: (f.count("/"), f))
        if not holders:
            return
        first = holders[0]
        splits = _listed(sorted(split_folders(folders_in[first]), key=folders_in[first].index))
        tops = list(dict.fromkeys(holder.partition("/")[0] for holder in holders))
        give = f"give --data-dir {printable(str(self.root / first))}"
        if len(tops) == 1:
            message = f"{self.shown}{printable(first)}/ is no class, for it holds {splits}; {give}"
        else:
            message = f"{_listed(tops)} hold splits each ({splits}); {give}, or move the splits above the classes"
        raise InputError(f"{self.where}: {message}; {self.layout}")

    def check_for_classes(self, names: Sequence[str]) -> None:
        """Raises InputError when the images of a single class lie in several folders: those are the classes."""
        folders = {posixpath.dirname(name) for name in names}
        common = posixpath.commonpath(folders)
        below = sorted({folder[len(common) + 1 :].partition("/")[0] for folder in folders})
        if common in folders or len(below) < 2:
            return
        if self.shown:
            way_out = f"move them up into {self.shown}"
        else:
            way_out = f"give --data-dir {printable(str(self.root / common))}"
        raise InputError(
            f"{self.where}: {self.shown}{printable(common)}/ would be the only class, and its images lie in "
            f"{_listed(below)}; if those are the classes, {way_out}"
        )


def _holds_splits(folder: str, folders_in: Mapping[str, Sequence[str]]) -> bool:
    """Whether a folder holds two splits, or nothing but one that has folders: not a class called train (a vehicle)."""
    named = split_folders(folders_in[folder])
    if len(set(named.values())) > 1:
        return True
    return len(named) == len(folders_in[folder]) and all(f"{folder}/{name}" in folders_in for name in named)


def _instead(left_out: tuple[LeftOut, ...]) -> str:
    return f", but {'; '.join(map(str, left_out))}" if left_out else ""


def _listed(folders: Sequence[str]) -> str:
    names = [f"{printable(folder)}/" for folder in folders]
    return f"{', '.join(names[:3])}, ..." if len(names) > 3 else " and ".join(names)
