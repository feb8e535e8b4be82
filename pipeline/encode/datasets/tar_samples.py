"""The samples of a tar: an image and its label each, by their names.

A label is KEY.cls, or KEY.json with a "label"; the image that belongs to it is KEY.jpg (or another extension of an
image). webdataset ends a key at the first dot of a name, and people pack photo.1.jpg beside photo.1.cls; so an image
belongs to the label with the longest key that its name begins with, up to a dot:

    photo.1.jpg  photo.1.cls     the sample photo.1, also beside photo.2.jpg and photo.2.cls
    x.jpg  x.seg.png  x.cls      the sample x; x.seg.png is counted as a further picture of it
    x.rgb.png  x.cls             the sample x, since it has no other image
    x.rgb.png  x.depth.png  x.cls    refused: nothing says which of the two is meant
    x.jpg  x.1.jpg  x.cls        x.1.jpg is counted as a picture without a label (refused, unless failures are skipped)
"""

import json
import posixpath
import re
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from ci2p_cache.errors import InputError
from ci2p_cache.left_out import LeftOutFiles
from ci2p_cache.printable import printable
from ci2p_cache.user_text import decode_text
from pipeline.encode.datasets.labels import LARGEST_LABEL
from pipeline.encode.datasets.listing import UNREAD
from pipeline.encode.datasets.places import without_query
from pipeline.encode.datasets.tar_members import file_members, tar_headers
from pipeline.encode.formats import is_image_name, looks_like_image

PARTS = "further pictures of a sample"
_LABEL_BYTES = {"cls": 1000, "json": 64 << 20}  # of more, it holds something else
_ARCHIVES = frozenset({"tar", "tgz", "gz", "bz2", "xz", "zst", "zip", "7z", "rar"})
_TEXTS = frozenset({"txt", "text", "caption", "captions", "transcript"})


class UnlabelledTarError(InputError):
    """A tar of images that has no label at all, as the tar of a test set may be."""

    num_images = 0


class TarSample(NamedTuple):
    """A labelled image; `key` is as the tar has it, offset and size are in bytes."""

    key: str
    label: int
    offset: int
    size: int


class _Image(NamedTuple):
    name: str
    offset: int
    size: int


class _Label(NamedTuple):
    name: str
    value: int


def list_samples(path: str, left_out: LeftOutFiles) -> list[TarSample]:
    """The samples of a tar, local or remote, whose headers are read from end to end.

    What is neither an image nor a label is counted in `left_out`. Raises InputError, naming tar and member, for an
    image without label, a label without image, a label that is none, and where one cannot know what belongs together.
    """
    images: list[_Image] = []
    undecoded: list[str] = []
    labels: dict[str, dict[str, _Label]] = {}  # by key, then by extension
    tar_name = posixpath.basename(without_query(path))
    with tar_headers(path) as tar:
        for member in file_members(tar, path, left_out):
            stem, extension = _split_name(member.name)
            if is_image_name(member.name):
                images.append(_Image(member.name, member.offset_data, member.size))
                continue
            if looks_like_image(member.name):
                undecoded.append(member.name)
                continue
            if extension not in ("cls", "json"):
                _leave_out(extension, printable(f"{tar_name}: {member.name}"), left_out)
                continue
            value = _read_label(tar, member, extension, path)
            if value is None:
                left_out.add("JSON files without a label", printable(f"{tar_name}: {member.name}"))
                continue
            beside = labels.setdefault(stem, {})
            if extension in beside:
                raise _refusal(path, f"sample {stem} has two labels: {beside[extension].name} and {member.name}")
            beside[extension] = _Label(member.name, value)
    for beside in labels.values():
        if len(beside) == 2:  # the label made for the purpose counts
            left_out.add("JSON files beside a .cls", printable(f"{tar_name}: {beside['json'].name}"))
    label_of = {key: beside.get("cls") or beside["json"] for key, beside in labels.items()}
    samples = list(_match(path, images, label_of, undecoded, left_out))
    found = {sample.key for sample in samples}
    for name in undecoded:
        is_part = any(key in found for key in _keys(_split_name(name)[0]))
        left_out.add(PARTS if is_part else UNREAD, printable(f"{tar_name}: {name}"), pictures=not is_part)
    return samples


def _match(
    path: str, images: list[_Image], label_of: dict[str, _Label], undecoded: list[str], left_out: LeftOutFiles
) -> Iterator[TarSample]:
    images_of: dict[str, list[_Image]] = {}
    stems = {_split_name(image.name)[0] for image in images}
    for image in images:
        stem = _split_name(image.name)[0]
        key = next((key for key in _keys(stem) if key in label_of), None)
        if key is None:
            key = next(key for key in reversed(list(_keys(stem))) if key in stems)
            text = printable(f'{path}: sample {key} has no label; add {key}.cls, or {key}.json with a "label"')
            if label_of:
                raise InputError(f"--data-dir: {text}")
            unlabelled = UnlabelledTarError(f"--data-dir: {text}")
            unlabelled.num_images = len(images)
            raise unlabelled
        images_of.setdefault(key, []).append(image)
    parents = {parent for key in images_of for parent in list(_keys(key))[1:]}
    tar_name = posixpath.basename(without_query(path))
    for key, label in label_of.items():
        mine = images_of.get(key, [])
        if not mine:
            if not any(parent in images_of for parent in list(_keys(key))[1:]):
                there = next((name for name in undecoded if key in _keys(_split_name(name)[0])), None)
                why = f"{there} is of a format that is not read here" if there else f"{label.name} is a label alone"
                raise _refusal(path, f"sample {key} has no image ({why}); mend it and pack it again")
            left_out.add("further labels of a sample", printable(f"{tar_name}: {label.name}"))
            continue
        exact = [image for image in mine if _split_name(image.name)[0] == key]
        others = [image for image in mine if _split_name(image.name)[0] != key]
        if others and key in parents:
            stem = _split_name(others[0].name)[0]
            raise _refusal(
                path, f"sample {stem} has no label, others beside it have one; add {stem}.cls or take it out"
            )
        if len(exact or others) > 1:
            names = ", ".join(sorted(image.name for image in exact or others))
            raise _refusal(path, f"sample {key} has {len(exact or others)} images ({names}); pack one a sample")
        if exact:
            for image in others:
                is_part = not image.name[len(key) + 1].isdigit()  # x.seg.png, not x.1.png
                what = PARTS if is_part else "pictures without a label of their own"
                left_out.add(what, printable(f"{tar_name}: {image.name}"), pictures=not is_part)
        (image,) = exact or others
        yield TarSample(key, label.value, image.offset, image.size)


def _split_name(name: str) -> tuple[str, str]:
    """Stem (with the folder) and lower-case extension, which is empty where the file's own name has no dot."""
    dot = name.rfind(".")
    return (name[:dot], name[dot + 1 :].lower()) if dot > name.rfind("/") + 1 else (name, "")


def _keys(stem: str) -> Iterator[str]:
    """The stem, and what is left of it when its file's name is cut at one dot after the other: a.b.c, a.b, a."""
    begin = stem.rfind("/") + 1
    while True:
        yield stem
        cut = stem.rfind(".", begin)
        if cut < 0:
            return
        stem = stem[:cut]


def _leave_out(extension: str, shown: str, left_out: LeftOutFiles) -> None:
    if extension in _TEXTS:
        left_out.add("text files in tars", shown)
    elif extension in _ARCHIVES:
        left_out.add("archives within tars", shown, pictures=True)
    else:
        left_out.add("files in tars that are neither images nor labels", shown)


def _read_label(tar: tarfile.TarFile, member: tarfile.TarInfo, extension: str, path: str) -> int | None:
    """The class index in a .cls or .json; None for a .json without "label". Raises InputError for anything else."""
    if member.size > _LABEL_BYTES[extension]:
        raise _no_label(path, member, f"{member.size} bytes")
    file = tar.extractfile(member)
    assert file is not None, "a regular file has contents"
    data = file.read()
    if len(data) < member.size:
        raise _refusal(path, f"{member.name} is cut short; copy or download the tar again")
    value: Any
    if extension == "cls":
        if len(data) < 7 and data.isdigit():  # a million times
            return int(data)
        text = decode_text(data, printable(f"--data-dir: {path}: {member.name}")).strip()
        if not re.fullmatch(r"\+?[0-9]+", text):
            raise _no_label(path, member, _shortened(text) if text else "it is empty")
        digits = text.lstrip("+0") or "0"
        value = int(digits) if len(digits) < 20 else LARGEST_LABEL + 1
    else:
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise _no_label(path, member, f"no JSON: {' '.join(str(error).split())}") from None
        if not isinstance(document, dict) or "label" not in document:
            return None
        value = text = document["label"]
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise _no_label(path, member, f'"label" is {_shortened(value)}')
    if value > LARGEST_LABEL:
        raise _no_label(path, member, f"{_cut(str(text))} would be a class among more than a million")
    return int(value)


def _shortened(value: object) -> str:
    try:
        return _cut(ascii(value))
    except (ValueError, RecursionError):  # an integer of thousands of digits, or lists within lists
        return f"a very long {type(value).__name__}"


def _cut(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}..."


def _no_label(path: str, member: tarfile.TarInfo, why: str) -> InputError:
    return _refusal(path, f"{member.name} is not a label ({why}): give the class as an integer from 0")


def _refusal(path: str, what: str) -> InputError:
    return InputError(printable(f"--data-dir: {path}: {what}"))
