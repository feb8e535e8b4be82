"""ImageNet-1k (ILSVRC 2012) as it is downloaded, without unpacking, or as folders.

    DIR/ILSVRC2012_img_train.tar         a tar of a tar per class, n01440764.tar ...
        or train/n01440764/*.JPEG
    DIR/ILSVRC2012_img_val.tar           the images alone; their classes are in the devkit
        or val/n01440764/*.JPEG, or val/*.JPEG with the devkit
    DIR/ILSVRC2012_devkit_t12.tar.gz     or unpacked

Kaggle's download (DIR/ILSVRC/Data/CLS-LOC/... with its LOC_*.{txt,csv}) is read too. A key is wnid/file in every
layout, so that a cache made from the tars is the cache made from the folders.
"""

import posixpath
import re
import tarfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ci2p_cache.errors import InputError
from pipeline.encode.datasets.folder import (
    FolderFiles,
    data_folder,
    image_files,
    logger,
    subfolders,
    warn_of_others,
)
from pipeline.encode.datasets.found import FoundImages
from pipeline.encode.datasets.imagenet_devkit import DEVKIT, FROM
from pipeline.encode.datasets.imagenet_truth import ImagenetTruth, class_names, find_truth
from pipeline.encode.datasets.keys import PackedStrings, item_keys
from pipeline.encode.datasets.split import ImageSource, SourceSplit, sorted_split
from pipeline.encode.datasets.tar_members import TarMembers, file_members, tar_headers

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
LAYOUT = f"expected {TRAIN_TAR}, {VAL_TAR} and {DEVKIT}.tar.gz in it, or the folders train/ and val/"

_WNID = re.compile(r"n\d{8}")


def find_imagenet(data_dir: str | None, seed: int) -> FoundImages:
    """ImageNet's own train and val; labels are the places of the wnids in alphabetical order.

    Listing the tar of the training images reads its 1.28 million headers once. `seed` is not looked at.
    """
    root = data_folder(data_dir, "imagenet", LAYOUT)
    kaggle = root / "ILSVRC" / "Data" / "CLS-LOC"
    base = kaggle if kaggle.is_dir() else root
    truth = find_truth(root)
    wnids = _train_wnids(base)

    @cache
    def open_train() -> SourceSplit:
        assert wnids is not None
        tar = base / TRAIN_TAR
        files = _train_of_tar(tar) if tar.is_file() else _of_class_folders(base / "train", wnids)
        return _split(*files, wnids, truth, where=base)

    @cache
    def open_val() -> SourceSplit:
        tar = base / VAL_TAR
        files = _val_of_tar(tar, truth) if tar.is_file() else _val_of_folder(base / "val", truth)
        # Validation alone: the thousand classes, or those that the folders name.
        known = wnids or (sorted(truth.words) if truth else sorted({name.partition("/")[0] for name in files[0]}))
        _warn_of_missing(len(files[0]), truth, base)
        return _split(*files, known, truth, where=base)

    parts = {"val": open_val} if wnids is None else {"train": open_train, "val": open_val}
    return FoundImages(
        layout="ImageNet",
        parts=parts,
        called={"train": f"{TRAIN_TAR} or train/", "val": f"{VAL_TAR} or val/"},
        expected=f"{LAYOUT}; {FROM}",
    )


def _split(
    names: Sequence[str], source: ImageSource, wnids: list[str], truth: ImagenetTruth | None, where: Path
) -> SourceSplit:
    """A split of images named wnid/file, in the order of the source's rows."""
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    folders = [name.partition("/")[0] for name in names]
    unknown = sorted(set(folders) - set(wnids))
    if unknown:
        raise InputError(
            f"--data-dir {where}: validation images are of the class {unknown[0]}, which the training images lack; "
            "give the same classes to both"
        )
    classes = class_names(wnids, truth.words if truth else {})
    return sorted_split(classes, item_keys(names), [label_of[wnid] for wnid in folders], source)


def _train_wnids(base: Path) -> list[str] | None:
    """Classes of the training images, sorted; None when there are no training images."""
    tar_path = base / TRAIN_TAR
    if tar_path.is_file():
        with tar_headers(str(tar_path)) as tar:
            return sorted(_wnid_of_tar(member, tar_path) for member in file_members(tar, str(tar_path)))
    if not (base / "train").is_dir():
        return None
    wnids = _wnid_folders(base / "train")
    if not wnids:
        raise InputError(f"--data-dir {base}: train/ holds no folders such as n01440764/; {LAYOUT}")
    return wnids


def _wnid_folders(folder: Path) -> list[str]:
    names = subfolders(folder)
    others = [name for name in names if not _WNID.fullmatch(name)]
    if others:
        logger.warning("%s: folders that are named like no class are left out: %s", folder, ", ".join(others[:3]))
    return [name for name in names if _WNID.fullmatch(name)]


def _wnid_of_tar(member: tarfile.TarInfo, tar_path: Path) -> str:
    wnid, extension = posixpath.splitext(posixpath.basename(member.name))
    if extension != ".tar" or not _WNID.fullmatch(wnid):
        raise InputError(
            f"--data-dir: {tar_path} holds {member.name} where a tar such as n01440764.tar was expected; {FROM}"
        )
    return wnid


def _train_of_tar(tar_path: Path) -> tuple[list[str], ImageSource]:
    names: list[str] = []
    offsets: list[int] = []
    sizes: list[int] = []
    with tar_headers(str(tar_path)) as outer:
        for class_member in file_members(outer, str(tar_path)):
            wnid = _wnid_of_tar(class_member, tar_path)
            where = f"{tar_path}: {class_member.name}"
            num_before = len(names)
            with tarfile.open(fileobj=outer.extractfile(class_member), mode="r:") as inner:
                for member in file_members(inner, where):
                    names.append(f"{wnid}/{posixpath.basename(member.name)}")
                    offsets.append(class_member.offset_data + member.offset_data)
                    sizes.append(member.size)
            if len(names) == num_before:
                raise InputError(f"--data-dir: {where} holds no images; {FROM}")
    return names, TarMembers([str(tar_path)], [0] * len(names), offsets, sizes)


def _of_class_folders(folder: Path, wnids: Sequence[str]) -> tuple[list[str], ImageSource]:
    names: list[str] = []
    others: list[str] = []
    for wnid in wnids:
        images = image_files(folder, wnid, others)
        if not images:
            raise InputError(f"--data-dir {folder}: the class folder {wnid}/ holds no images; fill or remove it")
        names += images
    warn_of_others(folder, others)
    return names, FolderFiles(str(folder), PackedStrings(names))


def _val_of_tar(tar_path: Path, truth: ImagenetTruth | None) -> tuple[list[str], ImageSource]:
    truth = _needed(truth, tar_path)
    names: list[str] = []
    offsets: list[int] = []
    sizes: list[int] = []
    with tar_headers(str(tar_path)) as tar:
        for member in file_members(tar, str(tar_path)):
            name = posixpath.basename(member.name)
            names.append(f"{truth.wnid_of(name)}/{name}")
            offsets.append(member.offset_data)
            sizes.append(member.size)
    return names, TarMembers([str(tar_path)], [0] * len(names), offsets, sizes)


def _val_of_folder(val: Path, truth: ImagenetTruth | None) -> tuple[list[str], ImageSource]:
    if not val.is_dir():
        raise InputError(f"--data-dir {val.parent}: there is neither {VAL_TAR} nor val/; {FROM}")
    wnids = _wnid_folders(val)
    if wnids:
        return _of_class_folders(val, wnids)
    others: list[str] = []
    files = [name.removeprefix("./") for name in image_files(val, ".", others)]
    if not files:
        raise InputError(f"--data-dir {val.parent}: val/ holds no images; {FROM}")
    warn_of_others(val, others)
    truth = _needed(truth, val)
    names = [f"{truth.wnid_of(posixpath.basename(file))}/{posixpath.basename(file)}" for file in files]
    return names, FolderFiles(str(val), PackedStrings(files))


def _needed(truth: ImagenetTruth | None, images: Path) -> ImagenetTruth:
    if truth is None:
        raise InputError(
            f"--data-dir: {images} does not say the classes of its images; put {DEVKIT}.tar.gz beside it: {FROM}"
        )
    return truth


def _warn_of_missing(num_images: int, truth: ImagenetTruth | None, base: Path) -> None:
    if truth is not None and num_images < len(truth.val_wnids):
        logger.warning("%s: %d validation images of the %d in the ground truth", base, num_images, len(truth.val_wnids))
