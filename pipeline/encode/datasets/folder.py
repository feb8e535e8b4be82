"""Images in class folders: DIR/train/CLASS/x.jpg and DIR/val/CLASS/x.jpg, or DIR/CLASS/x.jpg."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ci2p_cache.errors import InputError
from pipeline.encode.datasets.found import WHOLE, FoundImages
from pipeline.encode.datasets.keys import PackedStrings, item_keys
from pipeline.encode.datasets.split import SourceSplit, Stamp, sorted_split

logger = logging.getLogger("ci2p")

IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm"})
LAYOUT = "expected DIR/train/CLASS/x.jpg and DIR/val/CLASS/x.jpg, or DIR/CLASS/x.jpg"

# Folder names of the classes -> class name of each; raises InputError for a set of folders that is not the data set's.
NameClasses = Callable[[Path, Sequence[str]], dict[str, str]]


@dataclass(frozen=True, eq=False)
class FolderFiles:
    """An ImageSource: files below a folder, by relative name."""

    root: str
    names: PackedStrings

    def read(self, row: int) -> bytes:
        return Path(self.root, self.names[row]).read_bytes()

    def stamp(self, row: int) -> Stamp:
        found = os.stat(os.path.join(self.root, self.names[row]))  # noqa: PTH116, PTH118  (a Path each costs more)
        return Stamp(found.st_size, found.st_mtime_ns)


def find_folder(data_dir: str | None, seed: int) -> FoundImages:
    """Class folders; keys are "CLASS/x", classes the sorted folder names."""
    root = data_folder(data_dir, "folder", LAYOUT)
    return find_class_folders(root, lambda _, names: {name: name for name in names})


def find_class_folders(root: Path, name_classes: NameClasses, *, default_fraction: float = 0.1) -> FoundImages:
    """The parts of a folder in either layout. `name_classes` turns the folders of the classes into class names."""
    names = subfolders(root)
    if not _holds_splits(root, names):
        return FoundImages(
            layout="class folders",
            parts={WHOLE: cache(lambda: class_split(root, name_classes(root, names)))},
            called={WHOLE: "class folders"},
            expected=LAYOUT,
            default_fraction=default_fraction,
        )
    there = [name for name in ("train", "val", "test") if name in names]

    @cache
    def open_part(part: str) -> SourceSplit:
        return _open_part(root, "train" if "train" in there else part, part, name_classes)

    return FoundImages(
        layout=f"class folders in {', '.join(f'{name}/' for name in there)}",
        parts={name: cache(lambda name=name: open_part(name)) for name in there},
        called={name: f"{name}/" for name in there},
        expected=LAYOUT,
        default_fraction=default_fraction,
    )


def _open_part(root: Path, classes_from: str, part: str, name_classes: NameClasses) -> SourceSplit:
    """A folder's split, with the classes of the training images; others may lack some of them, never add one."""
    known = _named(root / classes_from, name_classes)
    named = _named(root / part, name_classes)
    if not known:
        raise _no_classes(root / classes_from)
    classes = tuple(sorted(set(known.values())))
    unknown = sorted(folder for folder, name in named.items() if name not in classes)
    if unknown:
        raise InputError(
            f"--data-dir {root}: {part}/ has the class {unknown[0]}, which train/ has not; "
            f"add it to train/ or take it out of {part}/"
        )
    return class_split(root / part, named, classes)


def data_folder(data_dir: str | None, dataset: str, layout: str) -> Path:
    """`--data-dir` as an absolute path. Raises InputError unless it is a folder."""
    if data_dir is None:
        raise InputError(f"--dataset {dataset} needs --data-dir DIR; {layout}")
    root = Path(os.path.abspath(Path(data_dir).expanduser()))  # noqa: PTH100  (resolve() would follow links)
    if not root.exists():
        raise InputError(f"--data-dir {data_dir}: there is no such folder; {layout}")
    if not root.is_dir():
        raise InputError(f"--data-dir {data_dir}: that is a file, not a folder; {layout}")
    return root


def subfolders(folder: Path) -> list[str]:
    """Sorted names of the folders in a folder, hidden ones left out. Raises InputError when it cannot be listed."""
    return sorted(entry.name for entry in _entries(str(folder)) if entry.is_dir())


def class_split(root: Path, class_of_folder: Mapping[str, str], classes: tuple[str, ...] | None = None) -> SourceSplit:
    """The images below root/FOLDER for each class folder, at any depth; `classes` defaults to the sorted names.

    Files that are no images by their extension are counted and named in one warning. Raises InputError when there is no
    class, or a class without images.
    """
    if not class_of_folder:
        raise _no_classes(root)
    if classes is None:
        classes = tuple(sorted(set(class_of_folder.values())))
    label_of_class = {name: label for label, name in enumerate(classes)}
    names: list[str] = []
    labels: list[int] = []
    others: list[str] = []
    for folder, class_name in class_of_folder.items():
        images = image_files(root, folder, others)
        if not images:
            raise InputError(
                f"--data-dir {root}: the class folder {folder}/ holds no images; fill or remove it; {LAYOUT}"
            )
        names += images
        labels += [label_of_class[class_name]] * len(images)
    warn_of_others(root, others)
    return sorted_split(classes, item_keys(names), labels, FolderFiles(str(root), PackedStrings(names)))


def image_files(root: Path, folder: str, others: list[str]) -> list[str]:
    """Images below root/folder, as posix names relative to root; what has another extension is added to `others`.

    Hidden files and folders are passed over. Takes no stat per file, so a million files list in seconds.
    """
    found: list[str] = []
    pending = [folder]
    while pending:
        here = pending.pop()
        for entry in _entries(os.path.join(root, here)):  # noqa: PTH118  (a Path per folder entry costs more than the scan)
            name = f"{here}/{entry.name}"
            if entry.is_dir():
                if entry.is_symlink() and (f"{os.path.realpath(root / here)}/").startswith(
                    f"{os.path.realpath(entry)}/"
                ):
                    raise InputError(
                        f"--data-dir {root}: {name} is a link to a folder that it lies in; remove the link"
                    )
                pending.append(name)
            elif is_image_name(entry.name):
                found.append(name)
            else:
                others.append(name)
    return found


def is_image_name(name: str) -> bool:
    return name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS


def warn_of_others(root: Path, others: Sequence[str]) -> None:
    """One line for all the files that are left out because of their extension."""
    if others:
        shown = ", ".join(sorted(others)[:3]) + (", ..." if len(others) > 3 else "")
        logger.warning("%s: %d files without an image's extension are left out: %s", root, len(others), shown)


def _no_classes(folder: Path) -> InputError:
    loose = any(is_image_name(entry.name) for entry in _entries(str(folder)))
    what = "images lie in it directly, without class folders" if loose else "there is no class folder in it"
    return InputError(f"--data-dir {folder}: {what}; {LAYOUT}")


def _named(folder: Path, name_classes: NameClasses) -> dict[str, str]:
    names = subfolders(folder)
    return name_classes(folder, names) if names else {}


def _holds_splits(root: Path, names: Sequence[str]) -> bool:
    """Whether train/, val/ and test/ are splits, not classes that happen to have such a name (a train, say)."""
    split_names = [name for name in names if name in ("train", "val", "test")]
    if len(split_names) < len(names):
        return any(subfolders(root / name) for name in split_names)
    return bool(split_names)


def _entries(folder: str) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"--data-dir: cannot list {folder}: {error.strerror}") from error
