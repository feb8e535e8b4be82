"""ImageNet's images, named wnid/file, in its tars and folders."""

import posixpath
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ci2p_cache.errors import InputError
from ci2p_cache.left_out import LeftOutFiles
from ci2p_cache.packed_strings import PackedStrings
from ci2p_cache.printable import printable
from pipeline.encode.datasets.class_folders import BESIDE_CLASSES, NO_CLASS, FolderFiles
from pipeline.encode.datasets.imagenet_devkit import DEVKIT, FROM
from pipeline.encode.datasets.imagenet_truth import ImagenetTruth
from pipeline.encode.datasets.listing import NO_IMAGES, UNREAD, image_files, leave_out_folder, list_folder, subfolders
from pipeline.encode.datasets.split import ImageSource
from pipeline.encode.datasets.tar_members import TarMembers, file_members, tar_headers
from pipeline.encode.formats import is_image_name, looks_like_image

WNID = re.compile(r"n\d{8}", re.ASCII)
_VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})", re.ASCII)


@dataclass(frozen=True)
class NamedImages:
    """Names wnid/file, in the order of the source's rows."""

    names: list[str]
    source: ImageSource


def wnids_of_folder(folder: Path) -> list[str]:
    """Its folders that are named like a class, sorted."""
    return [name for name in subfolders(folder) if WNID.fullmatch(name)]


def wnids_of_tar(tar_path: Path) -> list[str]:
    """Classes of the tar of the training images, sorted."""
    with tar_headers(str(tar_path)) as tar:
        members = list(file_members(tar, str(tar_path)))
    wnids = [wnid for member in members if (wnid := _wnid_of_tar(member, tar_path))]
    if not wnids:
        raise InputError(f"--data-dir: {printable(str(tar_path))} holds no tars such as n01440764.tar; {FROM}")
    twice = sorted(wnid for wnid in set(wnids) if wnids.count(wnid) > 1) if len(set(wnids)) < len(wnids) else []
    if twice:
        raise _is_twice(tar_path, f"{twice[0]}.tar")
    return sorted(wnids)


def train_of_tar(tar_path: Path, left_out: LeftOutFiles) -> NamedImages:
    """Those of a tar that holds a tar for each class; none is unpacked."""
    names: list[str] = []
    offsets: list[int] = []
    sizes: list[int] = []
    with tar_headers(str(tar_path)) as outer:
        for class_member in file_members(outer, str(tar_path), left_out):
            wnid = _wnid_of_tar(class_member, tar_path)
            if wnid is None:
                left_out.add(NO_IMAGES, printable(f"{tar_path.name}: {class_member.name}"))
                continue
            where = f"{tar_path}: {class_member.name}"
            seen: set[str] = set()
            with tarfile.open(fileobj=outer.extractfile(class_member), mode="r:") as inner:
                for member in file_members(inner, where, left_out):
                    name = _image_name(member, f"{tar_path.name}: {class_member.name}", left_out)
                    if name is None:
                        continue
                    if name in seen:
                        raise _is_twice(tar_path, f"{class_member.name}/{member.name}")
                    seen.add(name)
                    names.append(f"{wnid}/{name}")
                    offsets.append(class_member.offset_data + member.offset_data)
                    sizes.append(member.size)
            if not seen:
                raise InputError(f"--data-dir: {printable(where)} holds no images; {FROM}")
    return NamedImages(names, TarMembers([str(tar_path)], [0] * len(names), offsets, sizes))


def val_of_tar(tar_path: Path, truth: ImagenetTruth | None, left_out: LeftOutFiles) -> NamedImages:
    """Those of the tar of the validation images, with the classes that the ground truth gives them."""
    truth = _needed(truth, tar_path)
    names: dict[str, None] = {}
    offsets: list[int] = []
    sizes: list[int] = []
    with tar_headers(str(tar_path)) as tar:
        for member in file_members(tar, str(tar_path), left_out):
            image = _image_name(member, tar_path.name, left_out)
            if image is None:
                continue
            name = f"{truth.wnid_of(image)}/{image}"
            if name in names:
                raise _is_twice(tar_path, member.name)
            names[name] = None
            offsets.append(member.offset_data)
            sizes.append(member.size)
    if not names:
        raise InputError(f"--data-dir: {printable(str(tar_path))} holds no images; {FROM}")
    return NamedImages(list(names), TarMembers([str(tar_path)], [0] * len(names), offsets, sizes))


def train_of_folder(folder: Path, wnids: Sequence[str], shown: str, left_out: LeftOutFiles) -> NamedImages:
    """Those in class folders, none of which may be empty; `shown` ("train/") names the folder for people."""
    names = _in_class_folders(folder, wnids, shown, left_out)
    for wnid in set(wnids) - {name.partition("/")[0] for name in names}:
        here = LeftOutFiles()
        image_files(folder, wnid, here, shown=shown)
        instead = f", but {'; '.join(map(str, here.listed()))}" if here.listed() else ", it is empty"
        raise InputError(
            f"--data-dir: the class folder {printable(str(folder / wnid))}/ holds no images{instead}; fill or remove it"
        )
    for name in list_folder(folder, shown, LeftOutFiles()).images:
        left_out.add(BESIDE_CLASSES, printable(f"{shown}{name}"), pictures=True)
    return NamedImages(names, FolderFiles(str(folder), PackedStrings(names)))


def val_of_folder(folder: Path, truth: ImagenetTruth | None, shown: str, left_out: LeftOutFiles) -> NamedImages:
    """Those in class folders, or of the classes in the ground truth; of both where the sorting was broken off."""
    wnids = wnids_of_folder(folder)
    sorted_files: list[str] = []
    if wnids:
        sorted_files = _in_class_folders(folder, wnids, shown, left_out)
        flat = list(list_folder(folder, shown, LeftOutFiles()).images)
    else:
        around = shown.removesuffix(f"{folder.name}/")
        inner = image_files(folder.parent, folder.name, left_out, shown=around)
        flat = [name.removeprefix(f"{folder.name}/") for name in inner]
    if wnids and truth is None:
        for name in flat:
            left_out.add(BESIDE_CLASSES, printable(f"{shown}{name}"), pictures=True)
        flat = []
    if not sorted_files and not flat:
        raise InputError(f"--data-dir: {printable(str(folder))} holds no images; {FROM}")
    file_of = {name: name for name in sorted_files}
    for name in sorted_files if truth else ():
        _check_class(name, truth, folder)
    for file in flat:
        image = posixpath.basename(file)
        name = f"{_needed(truth, folder).wnid_of(image)}/{image}"
        if name in file_of:
            raise InputError(
                f"--data-dir: {printable(str(folder))} holds one image as {printable(file_of[name])} and as "
                f"{printable(file)}; remove one of them"
            )
        file_of[name] = file
    return NamedImages(list(file_of), FolderFiles(str(folder), PackedStrings(file_of.values())))


def _in_class_folders(folder: Path, wnids: Sequence[str], shown: str, left_out: LeftOutFiles) -> list[str]:
    """Images in the class folders; all else is counted, but for the images beside them."""
    for name in list_folder(folder, shown, left_out).folders:
        if not WNID.fullmatch(name):
            leave_out_folder(folder, name, NO_CLASS, left_out, shown=shown)
    return [name for wnid in wnids for name in image_files(folder, wnid, left_out, shown=shown)]


def _check_class(name: str, truth: ImagenetTruth | None, folder: Path) -> None:
    """Raises InputError when a validation image lies in the folder of another class than the ground truth's."""
    wnid, _, image = name.partition("/")
    match = _VAL_NAME.match(posixpath.basename(image))
    true_wnid = truth.val_wnids.get(int(match[1])) if truth and match else None
    if true_wnid not in (None, wnid):
        raise InputError(
            f"--data-dir: {printable(str(folder / name))} is of the class {true_wnid} by the ground truth; "
            f"move it into {true_wnid}/, or take {DEVKIT} and Kaggle's tables away if the folders are right"
        )


def _wnid_of_tar(member: tarfile.TarInfo, tar_path: Path) -> str | None:
    """The class of a tar in the tar of the training images; None for a README and the like."""
    wnid, extension = posixpath.splitext(posixpath.basename(member.name))
    if extension.lower() == ".tar" and WNID.fullmatch(wnid):
        return wnid
    if extension.lower() in (".tar", ".gz", ".tgz") or looks_like_image(member.name):
        raise InputError(
            f"--data-dir: {printable(f'{tar_path} holds {member.name}')} where a tar such as n01440764.tar was "
            f"expected; {FROM}"
        )
    return None


def _image_name(member: tarfile.TarInfo, shown: str, left_out: LeftOutFiles) -> str | None:
    """The image's file name; None for what is none by its name, which is counted."""
    if is_image_name(member.name):
        return posixpath.basename(member.name)
    unread = looks_like_image(member.name)
    left_out.add(UNREAD if unread else NO_IMAGES, printable(f"{shown}: {member.name}"), pictures=unread)
    return None


def _is_twice(tar_path: Path, member: str) -> InputError:
    return InputError(
        f"--data-dir: {printable(str(tar_path))} holds {printable(member)} twice; it was appended to: {FROM}, "
        "or pack it anew without the second"
    )


def _needed(truth: ImagenetTruth | None, images: Path) -> ImagenetTruth:
    if truth is None:
        raise InputError(
            f"--data-dir: {printable(str(images))} does not say the classes of its images; put {DEVKIT}.tar.gz beside "
            f"it: {FROM}"
        )
    return truth
