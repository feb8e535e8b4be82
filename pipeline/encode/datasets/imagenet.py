"""ImageNet-1k (ILSVRC 2012) as it is downloaded, without unpacking, or as folders.

    DIR/ILSVRC2012_img_train.tar         a tar of a tar per class, n01440764.tar ...
        or train/n01440764/*.JPEG
    DIR/ILSVRC2012_img_val.tar           the images alone; their classes are in the devkit
        or val/n01440764/*.JPEG, or val/*.JPEG with the devkit, or some of each
    DIR/ILSVRC2012_devkit_t12.tar.gz     or unpacked

Kaggle's download (DIR/ILSVRC/Data/CLS-LOC/... with its LOC_*.{txt,csv}) is read too. A key is wnid/file in every
layout, so that a cache made from the tars is the cache made from the folders.
"""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ci2p_cache.errors import InputError
from ci2p_cache.left_out import LeftOutFiles
from ci2p_cache.printable import printable
from pipeline.encode.datasets.data_dir import data_folder
from pipeline.encode.datasets.found import FoundImages
from pipeline.encode.datasets.imagenet_devkit import DEVKIT, FROM
from pipeline.encode.datasets.imagenet_images import (
    WNID,
    NamedImages,
    train_of_folder,
    train_of_tar,
    val_of_folder,
    val_of_tar,
    wnids_of_folder,
    wnids_of_tar,
)
from pipeline.encode.datasets.imagenet_truth import ImagenetTruth, class_names, find_truth
from pipeline.encode.datasets.keys import item_keys
from pipeline.encode.datasets.listing import leave_out_folder, list_folder, subfolders
from pipeline.encode.datasets.split import SourceSplit, sorted_split
from pipeline.encode.datasets.split_names import check_one_of_each, split_folders

logger = logging.getLogger("ci2p")

TARS = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
LAYOUT = f"expected {TARS['train']}, {TARS['val']} and {DEVKIT}.tar.gz in it, or the folders train/ and val/; {FROM}"
NO_PART = "images in folders that are neither train nor val"
BESIDE = "images beside the folders train and val"
OTHER_TASKS = "folders and tars of test images and other tasks"
TWICE = "folders and tars beside another of the same images"

_KAGGLE = ("ILSVRC", "Data", "CLS-LOC")
_LABEL_FILES = frozenset(f"{DEVKIT}.tar.gz LOC_synset_mapping.txt LOC_val_solution.csv".lower().split())
_COMPRESSED = {split: tuple(f"{tar[:-4]}{end}".lower() for end in (".tar.gz", ".tgz")) for split, tar in TARS.items()}
_TAR_NAMES = frozenset([*(tar.lower() for tar in TARS.values()), *sum(_COMPRESSED.values(), ())])
_OTHER_FILES = frozenset(
    {"ilsvrc2012_img_test.tar", "ilsvrc2012_img_test_v10102019.tar", "ilsvrc2012_img_train_t3.tar"}
    | {"ilsvrc2012_devkit_t3.tar.gz", "ilsvrc2012_bbox_train_v2.tar.gz", "ilsvrc2012_bbox_val_v3.tgz"}
)
_OTHER_TASK = re.compile(r"(?i)annotations|imagesets|det|vid|test|ilsvrc\d*_(img_test|img_train_t3|bbox|devkit_t3).*")
_YEAR = re.compile(r"(?i)ilsvrc\d*[_-]")
_MAX_DEPTH = 3  # how far below --data-dir the data set is looked for, to name it


@dataclass(frozen=True)
class _Place:
    """Where the images of one split lie: in a tar or in a folder."""

    path: Path
    is_tar: bool
    called: str  # for people, relative to --data-dir


def find_imagenet(data_dir: str | None, seed: int) -> FoundImages:
    """ImageNet's own train and val; labels are the places of the wnids in alphabetical order.

    Listing the tar of the training images reads its 1.28 million headers once. `seed` is not looked at.
    """
    root = data_folder(data_dir, "imagenet", LAYOUT)
    left_out = LeftOutFiles()
    places = _find_places(root, left_out)
    truth = find_truth(root)
    wnids = _train_wnids(places["train"]) if "train" in places else None

    @cache
    def open_train() -> SourceSplit:
        assert wnids is not None, "only what is there is a part"
        place, beside = places["train"], LeftOutFiles()
        images = (
            train_of_tar(place.path, beside)
            if place.is_tar
            else train_of_folder(place.path, wnids, place.called, beside)
        )
        return _split(images, wnids, truth, root, beside)

    @cache
    def open_val() -> SourceSplit:
        place, beside = places["val"], LeftOutFiles()
        images = (
            val_of_tar(place.path, truth, beside)
            if place.is_tar
            else val_of_folder(place.path, truth, place.called, beside)
        )
        # Validation alone: the thousand classes, or those that the folders name.
        known = wnids or (sorted(truth.words) if truth else sorted({name.partition("/")[0] for name in images.names}))
        if truth is not None and len(images.names) < len(truth.val_wnids):
            logger.warning(
                "%s: %d validation images of the %d in the ground truth",
                printable(str(root)),
                len(images.names),
                len(truth.val_wnids),
            )
        return _split(images, known, truth, root, beside)

    return FoundImages(
        layout=f"ImageNet: {' and '.join(map(_describe, places.values()))}",
        parts={split: {"train": open_train, "val": open_val}[split] for split in places},
        called={split: place.called for split, place in places.items()},
        expected=LAYOUT,
        left_out=left_out.listed(),
        unlabelled={"test": "ImageNet's test images come without labels"},
    )


def _find_places(root: Path, left_out: LeftOutFiles) -> dict[str, _Place]:
    """Where train and val lie; everything else is counted. Raises InputError when neither is there."""
    where = f"--data-dir {printable(str(root))}"
    base, shown, contents = root, "", list_folder(root, "", left_out, known=_LABEL_FILES | _TAR_NAMES | _OTHER_FILES)
    is_kaggle = os.path.isdir(root.joinpath(*_KAGGLE))  # noqa: PTH112  (False where one may not look)
    for below in _KAGGLE if is_kaggle else ():
        _leave_out_rest(base, shown, [name for name in contents.folders if name != below], contents.images, left_out)
        for name in contents.known:
            if name.lower() in _TAR_NAMES:
                left_out.add(TWICE, printable(f"{shown}{name}"))
        _count_other_files(contents.known, shown, left_out)
        base, shown = base / below, f"{shown}{below}/"
        contents = list_folder(base, shown, left_out, known=_TAR_NAMES | _OTHER_FILES)
    _count_other_files(contents.known, shown, left_out)
    plain = {_YEAR.sub("", name): name for name in contents.folders if name != DEVKIT}
    named = {plain[name]: split for name, split in split_folders(list(plain)).items() if split != "test"}
    check_one_of_each(named, where)
    places: dict[str, _Place] = {}
    for split, tar in TARS.items():
        tars = [name for name in contents.known if name.lower() == tar.lower()]
        folders = [name for name, of in named.items() if of == split]
        compressed = [name for name in contents.known if name.lower() in _COMPRESSED[split]]
        if tars:
            places[split] = _Place(base / tars[0], True, printable(f"{shown}{tars[0]}"))
        elif folders:
            places[split] = _Place(base / folders[0], False, printable(f"{shown}{folders[0]}/"))
        elif compressed:
            raise InputError(
                f"{where}: {compressed[0]} is compressed, and images are read from tars where they lie; gunzip it"
            )
        for name in [
            *tars[1:],
            *(f"{folder}/" for folder in folders if tars),
            *(compressed if tars or folders else ()),
        ]:
            left_out.add(TWICE, printable(f"{shown}{name}"))
    rest = [name for name in contents.folders if name not in named and not (base == root and name == DEVKIT)]
    if not places:
        inner = _data_set_below(root, _MAX_DEPTH)
        way_out = f"give --data-dir {printable(str(inner))}" if inner else LAYOUT
        raise InputError(f"{where}: there is neither {TARS['train']} nor train/, and no val; {way_out}")
    _leave_out_rest(base, shown, rest, contents.images, left_out)
    return places


def _count_other_files(names: Sequence[str], shown: str, left_out: LeftOutFiles) -> None:
    for name in names:
        if name.lower() in _OTHER_FILES:
            left_out.add(OTHER_TASKS, f"{shown}{name}")


def _leave_out_rest(
    folder: Path, shown: str, folders: Sequence[str], images: Sequence[str], left_out: LeftOutFiles
) -> None:
    for name in images:
        left_out.add(BESIDE, printable(f"{shown}{name}"), pictures=True)
    for name in folders:
        if _OTHER_TASK.fullmatch(name):  # a hundred thousand images and more: not looked into
            left_out.add(OTHER_TASKS, printable(f"{shown}{name}/"))
        else:
            leave_out_folder(folder, name, NO_PART, left_out, shown=shown)


def _train_wnids(place: _Place) -> list[str]:
    """Classes of the training images, sorted."""
    if place.is_tar:
        return wnids_of_tar(place.path)
    wnids = wnids_of_folder(place.path)
    if not wnids:
        tars = any(WNID.fullmatch(path.stem) for path in place.path.glob("n*.tar"))
        hint = "; unpack each of its tars into a folder of its name" if tars else ""
        raise InputError(
            f"--data-dir: {printable(str(place.path))} holds no folders such as n01440764/{hint}; {LAYOUT}"
        )
    return wnids


def _split(
    images: NamedImages, wnids: list[str], truth: ImagenetTruth | None, root: Path, left_out: LeftOutFiles
) -> SourceSplit:
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    folders = [name.partition("/")[0] for name in images.names]
    unknown = sorted(set(folders) - set(wnids))
    if unknown:
        raise InputError(
            f"--data-dir {printable(str(root))}: validation images are of the class {unknown[0]}, which the training "
            "images lack; give the same classes to both"
        )
    classes = class_names(wnids, truth.words if truth else {})
    labels = [label_of[wnid] for wnid in folders]
    return sorted_split(classes, item_keys(images.names), labels, images.source, left_out.listed())


def _describe(place: _Place) -> str:
    if place.is_tar:
        return place.called
    return (
        f"{place.called} in class folders" if wnids_of_folder(place.path) else f"{place.called} without class folders"
    )


def _data_set_below(folder: Path, depth: int) -> Path | None:
    """The folder below that looks like ImageNet."""
    for name in subfolders(folder):
        inner = folder / name
        contents = list_folder(inner, "", LeftOutFiles(), known=_TAR_NAMES)
        splits = split_folders(contents.folders)
        if contents.known or _KAGGLE[0] in contents.folders or any(wnids_of_folder(inner / split) for split in splits):
            return inner
        deeper = _data_set_below(inner, depth - 1) if depth else None
        if deeper:
            return deeper
    return None
