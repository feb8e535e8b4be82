"""What lies in a folder: folders, images, and everything else by what it is.

No file is opened, and none but links costs a stat: a million files list in seconds.
"""

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ci2p_cache.errors import InputError
from ci2p_cache.left_out import LeftOutFiles
from ci2p_cache.printable import printable
from ci2p_cache.remote_files import describe
from ci2p_cache.remote_path import AnyPath
from pipeline.encode.datasets.own_output import is_own_output
from pipeline.encode.datasets.remote_folder import RemoteEntry, scan
from pipeline.encode.formats import is_image_name, looks_like_image

HIDDEN = "hidden files and folders"
LITTER = "files and folders of operating systems"
NO_IMAGES = "files that are no images by their name"
UNREAD = "pictures in a format that is not read here"
DANGLING = "links that cannot be followed"
SPECIAL = "fifos, sockets and devices"
OWN_OUTPUT = "caches and runs of ci2p"
LINKED_FOLDERS = "links to folders"

_LITTER_NAMES = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"})
_LITTER_NAMES |= {"@eadir", "@__thumb", "#recycle", "@recycle", "$recycle.bin", "system volume information"}
_LITTER_NAMES |= {"lost+found", "__pycache__"}


@dataclass(frozen=True)
class Contents:
    """Names in a folder, sorted."""

    folders: tuple[str, ...]
    images: tuple[str, ...]
    links: frozenset[str]  # the folders that are links
    known: tuple[str, ...]  # the files that the caller knows by name


def list_folder(
    folder: str | AnyPath, shown: str, left_out: LeftOutFiles, *, known: frozenset[str] = frozenset()
) -> Contents:
    """Folders and images; what is neither is counted in `left_out` under its name with `shown` ("train/") before it.

    Files whose names, in lower case, are among `known` are handed back and not counted. Only regular files and links to
    such are images: a fifo would hang whoever reads it. Raises InputError when the folder cannot be listed.
    """
    folders: list[str] = []
    images: list[str] = []
    links: set[str] = set()
    known_files: list[str] = []
    for entry in _entries(str(folder)):
        name = entry.name
        is_file = entry.is_file(follow_symlinks=False)
        is_folder = not is_file and entry.is_dir(follow_symlinks=False)
        what = "" if is_file or is_folder else SPECIAL
        if what and not isinstance(entry, RemoteEntry) and entry.is_symlink():
            mode = _mode_behind(entry)
            is_file, is_folder = stat.S_ISREG(mode), stat.S_ISDIR(mode)
            what = "" if is_file or is_folder else SPECIAL if mode else DANGLING
            if is_folder:
                links.add(name)
        if name.startswith("."):
            what = HIDDEN
        elif name.lower() in _LITTER_NAMES:
            what = LITTER
        elif is_folder and is_own_output(entry.path):
            what = OWN_OUTPUT
        elif is_file and name.lower() in known:
            known_files.append(name)
            continue
        elif is_file and not is_image_name(name):
            what = UNREAD if looks_like_image(name) else NO_IMAGES
        if what:
            pictures = what == UNREAD or (what in (SPECIAL, DANGLING) and looks_like_image(name))
            left_out.add(what, printable(f"{shown}{name}") + "/" * is_folder, pictures=pictures)
        elif is_folder:
            folders.append(name)
        else:
            images.append(name)
    return Contents(tuple(sorted(folders)), tuple(sorted(images)), frozenset(links), tuple(sorted(known_files)))


def subfolders(folder: str | AnyPath) -> list[str]:
    """Sorted names of the folders in a folder, but for hidden ones and the like. Raises InputError as `list_folder`."""
    return list(list_folder(folder, "", LeftOutFiles()).folders)


def image_files(
    root: AnyPath,
    folder: str,
    left_out: LeftOutFiles,
    *,
    shown: str = "",
    on_folders: Callable[[str, tuple[str, ...]], None] = lambda folder, names: None,
) -> list[str]:
    """Images below root/folder at any depth, as posix names relative to root; all else is counted in `left_out`.

    `on_folders` is told of every folder that has folders, and their names. A million files list in seconds. Raises
    InputError for a link to a folder that it lies in, directly or by way of other links.
    """
    found: list[str] = []
    # A folder, and where the links that led to it lie: who comes back to one of those walks in a circle.
    pending: list[tuple[str, tuple[str, ...]]] = [(folder, ())]
    if _is_link(root, folder):
        pending = [(folder, (_place_of_link(root, folder, ()),))]
    while pending:
        here, passed = pending.pop()
        contents = list_folder(f"{root}/{here}", f"{shown}{here}/", left_out)
        if contents.folders:
            on_folders(here, contents.folders)
        for name in contents.folders:
            below = f"{here}/{name}"
            links = (*passed, _place_of_link(root, below, passed)) if name in contents.links else passed
            pending.append((below, links))
        found += [f"{here}/{name}" for name in contents.images]
    return found


def leave_out_folder(
    root: AnyPath,
    folder: str,
    what: str,
    left_out: LeftOutFiles,
    *,
    shown: str = "",
    pictures: bool = True,
    follow: bool = False,
) -> int:
    """Counts the images below root/folder as `what`, and all else as what it is. Returns the number of images.

    Links to folders are counted and not followed; `folder` itself is where `follow` says so.
    """
    count = 0
    pending = [folder]
    while pending:
        here = pending.pop()
        if _is_link(root, here) and not (follow and here == folder):
            left_out.add(LINKED_FOLDERS, printable(f"{shown}{here}/"))
            continue
        contents = list_folder(root / here, f"{shown}{here}/", left_out)
        for name in contents.images:
            left_out.add(what, printable(f"{shown}{here}/{name}"), pictures=pictures)
        pending += [f"{here}/{name}" for name in contents.folders]
        count += len(contents.images)
    return count


def _is_link(root: AnyPath, name: str) -> bool:
    """False where one may not look."""
    return isinstance(root, Path) and os.path.islink(root / name)  # noqa: PTH114


def _place_of_link(root: AnyPath, link: str, passed: tuple[str, ...]) -> str:
    """The real folder that a link lies in. Raises InputError when the link leads around in a circle."""
    place = os.path.realpath(str((root / link).parent))
    target = os.path.realpath(str(root / link))
    if any(f"{folder}/".startswith(f"{target.rstrip('/')}/") for folder in (*passed, place)):
        raise InputError(
            f"--data-dir {printable(str(root))}: {printable(link)} is a link to a folder that it lies in; "
            "remove the link"
        )
    return place


def _mode_behind(entry: "os.DirEntry[str]") -> int:
    """The mode of what a link leads to; 0 when that is nothing, or a circle of links."""
    try:
        return entry.stat().st_mode
    except OSError:
        return 0


def _entries(folder: str) -> "Sequence[os.DirEntry[str] | RemoteEntry]":
    try:
        if "://" in folder:
            return scan(folder)
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise InputError(f"--data-dir: cannot list {printable(folder)}: {describe(error)}") from error
