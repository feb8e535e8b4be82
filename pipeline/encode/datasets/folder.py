"""Images in class folders: DIR/train/CLASS/x.jpg and DIR/val/CLASS/x.jpg, or DIR/CLASS/x.jpg."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from ci2p_cache.errors import InputError
from ci2p_cache.left_out import LeftOutFiles
from ci2p_cache.printable import counted, printable
from ci2p_cache.remote_path import AnyPath
from pipeline.encode.datasets.class_folders import LAYOUT, class_split
from pipeline.encode.datasets.data_dir import data_place
from pipeline.encode.datasets.found import SPLITS, WHOLE, FoundImages
from pipeline.encode.datasets.listing import Contents, leave_out_folder, list_folder, subfolders
from pipeline.encode.datasets.own_output import is_own_output
from pipeline.encode.datasets.split import SourceSplit
from pipeline.encode.datasets.split_names import check_one_of_each, is_without_label, split_folders, split_of_name

BESIDE_SPLITS = "images beside the folders of the splits"
NO_SPLIT = "images in folders that are no split"

# Folder names of the classes -> class name of each, without those that are no class. Raises InputError for folders that
# are not the data set's; the last argument says whether classes may be missing, as they may in val/.
NameClasses = Callable[[AnyPath, Sequence[str], bool], dict[str, str]]


def find_folder(data_dir: str | None, seed: int) -> FoundImages:
    """Class folders; keys are "CLASS/x", classes the sorted folder names."""
    root = data_place(data_dir, "folder", LAYOUT)
    if is_own_output(str(root)):
        raise InputError(f"--data-dir {printable(str(root))}: that is a cache or a run of ci2p, not images; {LAYOUT}")
    return find_class_folders(root, _names_as_they_are)


def find_class_folders(
    root: AnyPath, name_classes: NameClasses, *, default_fraction: float = 0.1, layout: str = LAYOUT
) -> FoundImages:
    """The parts of a folder in either layout. `name_classes` turns the folders of the classes into class names.

    Folders called like splits are splits if they are all that there are, or if one of them holds folders: a class may
    be called train. A test/ without class folders has no labels and is no part.
    """
    left_out = LeftOutFiles()
    contents = list_folder(root, "", left_out)
    folder_of = _split_folders(root, contents)
    if not folder_of:
        return FoundImages(
            layout="class folders",
            parts={WHOLE: cache(lambda: class_split(root, name_classes(root, contents.folders, False), layout=layout))},
            called={WHOLE: "class folders"},
            expected=layout,
            default_fraction=default_fraction,
        )
    for name in contents.images:
        left_out.add(BESIDE_SPLITS, printable(name), pictures=True)
    for name in contents.folders:
        if name not in folder_of.values():
            leave_out_folder(root, name, NO_SPLIT, left_out)
    inner_of = {split: _inner(root, folder, split) for split, folder in folder_of.items()}
    if "train" in inner_of and not subfolders(root / inner_of["train"]):
        class_split(
            root / inner_of["train"], {}, shown=f"{inner_of['train']}/", layout=layout
        )  # says what it is instead
    unlabelled: dict[str, str] = {}
    if "test" in inner_of and len(inner_of) > 1:
        classes = subfolders(root / inner_of["train"]) if "train" in inner_of else []
        without_labels = _leave_out_unlabelled(root, inner_of["test"], classes, left_out)
        if without_labels:
            unlabelled["test"] = without_labels
            del inner_of["test"]
    called = {split: f"{printable(folder)}/" for split, folder in inner_of.items()}

    @cache
    def open_part(split: str) -> SourceSplit:
        return _open_part(root, inner_of, split, name_classes, layout)

    return FoundImages(
        layout=f"class folders in {_and(list(called.values()))}",
        parts={split: cache(lambda split=split: open_part(split)) for split in inner_of},
        called=called,
        expected=layout,
        left_out=left_out.listed(),
        default_fraction=default_fraction,
        unlabelled=unlabelled,
    )


def _split_folders(root: AnyPath, contents: Contents) -> dict[str, str]:
    """Split -> its folder, in the order of SPLITS; none where the folders are classes."""
    named = split_folders(contents.folders)
    if len(named) < len(contents.folders) and not any(subfolders(root / folder) for folder in named):
        return {}
    check_one_of_each(named, f"--data-dir {printable(str(root))}")
    for folder in named:
        inner = subfolders(root / folder)
        splits = split_folders(inner)
        if len(splits) == len(inner) and len(set(splits.values())) > 1:
            raise InputError(
                f"--data-dir {printable(str(root))}: {printable(folder)}/ holds "
                f"{_and([f'{printable(name)}/' for name in inner])} where class folders were expected; "
                f"give --data-dir {printable(str(root / folder))} if that is the data set"
            )
    folder_of = {split: folder for folder, split in named.items()}
    return {split: folder_of[split] for split in SPLITS if split in folder_of}


def _inner(root: AnyPath, folder: str, split: str) -> str:
    """seg_train/seg_train for seg_train: some zips hold a split's folder in a folder of its name."""
    contents = list_folder(root / folder, "", LeftOutFiles())
    if len(contents.folders) == 1 and not contents.images:
        (inner,) = contents.folders
        if inner == folder or (split_of_name(inner) == split and subfolders(root / folder / inner)):
            return f"{folder}/{inner}"
    return folder


def _leave_out_unlabelled(root: AnyPath, folder: str, classes: Sequence[str], left_out: LeftOutFiles) -> str | None:
    """What a test folder without labels is, for people, its images counted; None for one that has labels."""
    contents = list_folder(root / folder, "", LeftOutFiles())
    if contents.folders:
        (first, *more) = contents.folders
        if more or first in classes or not is_without_label(first) or subfolders(root / folder / first):
            return None
    what = f"images of {printable(folder)}/ without class folders, so without labels"
    count = leave_out_folder(root, folder, what, left_out, pictures=False, follow=True)
    if not count:
        return f"{printable(folder)}/ holds no images"
    return f"{printable(folder)}/ holds {counted(count, 'image')}, but no class folders, so no labels"


def _open_part(
    root: AnyPath, folder_of: Mapping[str, str], split: str, name_classes: NameClasses, layout: str
) -> SourceSplit:
    """A split, with the classes of the training images; others may lack some of them, never add one."""
    classes_from = "train" if "train" in folder_of else split
    known = _named(root / folder_of[classes_from], name_classes, may_lack=False)
    folder, shown = root / folder_of[split], f"{folder_of[split]}/"
    if split == classes_from:
        return class_split(folder, known, shown=shown, layout=layout)
    named = _named(folder, name_classes, may_lack=True)
    classes = tuple(sorted(set(known.values())))
    for of_folder, name in named.items():
        if name not in classes:
            alike = [other for other in classes if _looks(other) == _looks(name)]
            if len(named) == 1 and is_without_label(of_folder):
                raise InputError(
                    f"--data-dir {printable(str(root))}: the images of {printable(shown)} lie in "
                    f"{printable(of_folder)}/, which is no class of the training images; move those of each class into "
                    "a folder of its name"
                )
            hint = f" ({printable(folder_of[classes_from])}/ has {alike[0]!a})" if alike else ""
            raise InputError(
                f"--data-dir {printable(str(root))}: {printable(shown)} has the class "
                f"{ascii(name) if alike else printable(of_folder)}, which {printable(folder_of[classes_from])}/ has "
                f"not{hint}; add it there or take it out of {printable(shown)}"
            )
    return class_split(folder, named, classes, shown=shown, layout=layout)


def _named(folder: AnyPath, name_classes: NameClasses, *, may_lack: bool) -> dict[str, str]:
    names = subfolders(folder)
    return name_classes(folder, names, may_lack) if names else {}


def _names_as_they_are(folder: AnyPath, names: Sequence[str], may_lack: bool) -> dict[str, str]:
    """Each folder's own name, printable. Raises InputError for two that cannot be told apart."""
    class_of_folder = {name: printable(name) for name in names}
    first: dict[str, str] = {}
    for name, class_name in class_of_folder.items():
        other = first.setdefault(unicodedata.normalize("NFC", class_name), name)
        if other != name:
            raise InputError(
                f"--data-dir {printable(str(folder))}: the class folders {other!a} and {name!a} would have "
                f"one name, {class_name}; rename or merge them"
            )
    return class_of_folder


def _looks(name: str) -> str:
    """What two names have in common that a person would take for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _and(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
