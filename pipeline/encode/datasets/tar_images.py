"""Images and labels in tars, as webdataset packs them: KEY.jpg beside KEY.cls, or beside KEY.json with a "label"."""

import json
import posixpath
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

from ci2p_cache.errors import InputError
from pipeline.encode.datasets.found import WHOLE, FoundImages
from pipeline.encode.datasets.split import SourceSplit, sorted_split
from pipeline.encode.datasets.tar_members import TarMembers, file_members, is_url, tar_headers
from pipeline.encode.datasets.tar_urls import LAYOUT, find_tars
from pipeline.encode.formats import is_image_name

CLASSES_FILE = "classes.txt"


@dataclass
class _Sample:
    label: int | None = None
    images: list[tuple[int, int]] = field(default_factory=list)  # (offset, size) in bytes


@dataclass
class _Listing:
    """The samples of a split, parallel lists; `keys` as the tars have them."""

    tars: tuple[str, ...]
    keys: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    tar_of_row: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


def find_tar_images(data_dir: str | None, seed: int) -> FoundImages:
    """Tars of images, local or remote; `tar_urls` says which `--data-dir` there are and how a tar tells its split.

    Class names come from a classes.txt, a name a line, beside the tars or in the folder above; else they are the
    label's digits. Tars are listed by their headers; a remote one is streamed through once for that. Where keys repeat
    among the tars, every key is TAR/KEY. Raises InputError for a sample without label or image, naming tar and key.
    """
    if data_dir is None:
        raise InputError(f"--dataset webdataset needs --data-dir; {LAYOUT}")
    found = find_tars(data_dir)
    tars = {WHOLE: found.whole, "train": found.train, "val": found.val}
    tars = {part: names for part, names in tars.items() if names}
    names = _read_classes([tar for part in tars.values() for tar in part])
    listed = cache(lambda part: _list_samples(tars[part]))

    @cache
    def open_part(part: str) -> SourceSplit:
        # Without names, the number of classes is known only when every label of every part is.
        return _split(listed(part), names or _digits(*map(listed, tars)), data_dir)

    return FoundImages(
        layout="tars of images",
        parts={part: partial(open_part, part) for part in tars},
        called={part: f"{posixpath.basename(paths[0])} ..." for part, paths in tars.items()},
        expected=LAYOUT,
    )


def _list_samples(tars: tuple[str, ...]) -> _Listing:
    listing = _Listing(tars)
    for tar_index, path in enumerate(tars):
        with tar_headers(path) as tar:
            samples = _samples(tar, path)
        for key, sample in samples.items():
            if not sample.images:
                raise InputError(f"--data-dir: {path}: sample {key} has no image; pack it again")
            if sample.label is None:
                raise InputError(
                    f'--data-dir: {path}: sample {key} has no label; add {key}.cls, or {key}.json with a "label"'
                )
            if len(sample.images) > 1:
                raise InputError(f"--data-dir: {path}: sample {key} has {len(sample.images)} images; pack one a sample")
            listing.keys.append(key)
            listing.labels.append(sample.label)
            listing.tar_of_row.append(tar_index)
            listing.offsets.append(sample.images[0][0])
            listing.sizes.append(sample.images[0][1])
    if not listing.keys:
        raise InputError(f"--data-dir: {tars[0]} and the tars beside it hold no samples; {LAYOUT}")
    return listing


def _samples(tar: tarfile.TarFile, path: str) -> dict[str, _Sample]:
    """Key -> sample. A key ends at the first dot of the file's name, as webdataset has it."""
    samples: dict[str, _Sample] = {}
    labels_of_cls: set[str] = set()
    for member in file_members(tar, path):
        folder, name = posixpath.split(member.name.removeprefix("./"))
        stem, _, extension = name.partition(".")
        extension = extension.lower()
        is_label = extension in ("cls", "json")
        if not is_label and ("." in extension or not is_image_name(f".{extension}")):
            continue  # captions, masks (KEY.seg.png) and the like
        key = posixpath.join(folder, stem)
        sample = samples.setdefault(key, _Sample())
        if not is_label:
            sample.images.append((member.offset_data, member.size))
        elif extension == "cls" or key not in labels_of_cls:  # of the two, the label made for the purpose counts
            file = tar.extractfile(member)
            assert file is not None, "a regular file has contents"
            label = _parse_label(file.read(), extension, f"{path}: {member.name}")
            sample.label = sample.label if label is None else label
            if extension == "cls":
                labels_of_cls.add(key)
    return samples


def _parse_label(data: bytes, extension: str, where: str) -> int | None:
    """The class index in a .cls or .json; None for a .json without "label". Raises InputError for anything else."""
    try:
        value: Any = int(data) if extension == "cls" else json.loads(data)
        if extension == "json":
            if not isinstance(value, dict) or "label" not in value:
                return None
            value = value["label"]
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError
    except ValueError:
        raise InputError(f"--data-dir: {where} is not a label: give the class as an integer from 0") from None
    return value


def _split(listing: _Listing, classes: tuple[str, ...], data_dir: str) -> SourceSplit:
    keys = listing.keys
    if len(set(keys)) < len(keys):
        stems = [posixpath.basename(tar).removesuffix(".tar") for tar in listing.tars]
        keys = [f"{stems[tar]}/{key}" for tar, key in zip(listing.tar_of_row, keys, strict=True)]
    if len(set(keys)) < len(keys):
        twice = min(key for key, count in Counter(keys).items() if count > 1)
        raise InputError(f"--data-dir {data_dir}: two tars have the name and the sample {twice}; rename one of them")
    for row, label in enumerate(listing.labels):
        if label >= len(classes):
            raise InputError(
                f"--data-dir {data_dir}: {listing.tars[listing.tar_of_row[row]]}: sample {listing.keys[row]} has label "
                f"{label}, and {CLASSES_FILE} names {len(classes)} classes; mend one of them"
            )
    source = TarMembers(listing.tars, listing.tar_of_row, listing.offsets, listing.sizes)
    return sorted_split(classes, keys, listing.labels, source)


def _digits(*listings: _Listing) -> tuple[str, ...]:
    return tuple(str(label) for label in range(1 + max(int(np.max(listing.labels)) for listing in listings)))


def _read_classes(tars: Sequence[str]) -> tuple[str, ...]:
    """The names in the classes.txt beside the first tar or one folder up; empty when there is none."""
    folder = posixpath.dirname(tars[0])
    for candidate in (f"{folder}/{CLASSES_FILE}", f"{posixpath.dirname(folder)}/{CLASSES_FILE}"):
        try:
            text = _read_text(candidate)
        except (FileNotFoundError, IsADirectoryError):
            continue
        except (OSError, ImportError, UnicodeDecodeError) as error:
            raise InputError(f"--data-dir: cannot read {candidate}: {error}") from error
        names = tuple(line.strip() for line in text.splitlines() if line.strip())
        if len(set(names)) < len(names):
            raise InputError(f"--data-dir: {candidate} names a class twice; give every class a name of its own")
        return names
    return ()


def _read_text(path: str) -> str:
    if not is_url(path):
        return Path(path).read_text("utf-8")
    with fsspec.open(path, "r", encoding="utf-8") as file:
        return str(file.read())
