"""Images and labels in tars, as webdataset packs them: KEY.jpg beside KEY.cls, or beside KEY.json with a "label"."""

import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

from ci2p_cache.errors import InputError
from ci2p_cache.left_out import LeftOut, LeftOutFiles, describe_left_out, merge_left_out
from ci2p_cache.printable import counted, printable
from ci2p_cache.remote_files import describe, read_file
from ci2p_cache.user_text import decode_text, names_of, read_text
from pipeline.encode.datasets.found import WHOLE, FoundImages
from pipeline.encode.datasets.labels import label_names
from pipeline.encode.datasets.packed_files import PackedKind, find_packed
from pipeline.encode.datasets.places import without_query
from pipeline.encode.datasets.split import SourceSplit, sorted_split
from pipeline.encode.datasets.tar_members import TarMembers, is_url
from pipeline.encode.datasets.tar_samples import TarSample, UnlabelledTarError, list_samples

CLASSES_FILE = "classes.txt"
TARS = PackedKind(
    ".tar",
    "tars",
    re.compile(r"\.(?:tar\.(?:gz|bz2|xz|zst|lz4|lzma|z|br)|tgz|tbz2?|txz|tzst|tlz4?|taz)$", re.IGNORECASE),
    CLASSES_FILE,
)
_MOST_TEXT_BYTES = 1 << 26  # of a classes.txt


@dataclass
class _Listing:
    """The samples of a part, parallel lists."""

    tars: tuple[str, ...]
    samples: list[TarSample] = field(default_factory=list)
    tar_of_row: list[int] = field(default_factory=list)
    left_out: tuple[LeftOut, ...] = ()

    def where(self, row: int) -> str:
        """A sample, for messages: "set/train-0.tar: sample x"."""
        return printable(f"{self.tars[self.tar_of_row[row]]}: sample {self.samples[row].key}")


def find_tar_images(data_dir: str | None, seed: int) -> FoundImages:
    """Tars of images, local or remote; `packed_files` says which `--data-dir` there are and how a tar tells its split.

    Class names come from a classes.txt, a name a line, beside the tars or in the folder above; else they are the
    label's digits. Tars are listed by their headers; a remote one is streamed through once for that. Where keys repeat
    among the tars, every key is TAR/KEY. Raises InputError for a sample without label or image, naming tar and key.
    """
    if data_dir is None:
        raise InputError(f"--dataset webdataset needs --data-dir; {TARS.layout}")
    found = find_packed(data_dir, TARS)
    names = _read_classes([tar for tars in found.parts.values() for tar in tars])
    listed = cache(lambda part: _list_part(found.parts[part], len(names) or None))
    tars_of, left_out = dict(found.parts), found.left_out
    unlabelled: dict[str, str] = {}
    # Without names, all parts are listed in any case; with them, a test without labels is an error when it is wanted.
    if (
        "train" in tars_of
        and "test" in tars_of
        and not names
        and (num_images := _num_unlabelled(tars_of["test"], listed))
    ):
        tars = tars_of.pop("test")
        unlabelled["test"] = f"{_called(tars)} holds no labels"
        lost = LeftOut(what="images of test without labels", count=num_images, names=tuple(map(_tar_name, tars[:10])))
        left_out = merge_left_out(left_out, [lost])

    @cache
    def open_part(part: str) -> SourceSplit:
        # Without names, the number of classes is known only when every label of every part is.
        return _split(listed(part), names or _digits([listed(each) for each in tars_of]), data_dir)

    return FoundImages(
        layout="tars: " + ", ".join(_amount(part, len(tars)) for part, tars in tars_of.items()),
        parts={part: partial(open_part, part) for part in tars_of},
        called={part: _called(tars) for part, tars in tars_of.items()},
        expected=TARS.layout,
        left_out=left_out,
        unlabelled=unlabelled,
    )


def _num_unlabelled(tars: Sequence[str], listed: Callable[[str], object]) -> int:
    """How many images the tars of test hold when none of them has a label; else 0."""
    try:
        listed("test")
    except UnlabelledTarError as first:
        count = 0
        for path in tars:
            try:
                list_samples(path, LeftOutFiles())
            except UnlabelledTarError as error:
                count += error.num_images
            else:
                raise first from None  # labels in some tars, none in others
        return count
    return 0


def _amount(part: str, count: int) -> str:
    return f"{count} without a split's name" if part == WHOLE else f"{count} for {part}"


def _called(tars: Sequence[str]) -> str:
    name = _tar_name(tars[0])
    return name if len(tars) == 1 else f"{name} and {len(tars) - 1} more"


def _tar_name(tar: str) -> str:
    return printable(posixpath.basename(without_query(tar)))


def _list_part(tars: tuple[str, ...], num_names: int | None) -> _Listing:
    listing = _Listing(tars)
    left_out = LeftOutFiles()
    for tar_index, path in enumerate(tars):
        samples = list_samples(path, left_out)
        listing.samples += samples
        listing.tar_of_row += [tar_index] * len(samples)
        for row in range(len(listing.samples) - len(samples), len(listing.samples)):
            label = listing.samples[row].label
            if num_names is not None and label >= num_names:
                raise InputError(
                    f"--data-dir: {listing.where(row)} has label {label}, and {CLASSES_FILE} names "
                    f"{counted(num_names, 'class')}, the first of them 0; mend one of them"
                )
    listing.left_out = left_out.listed()
    if not listing.samples:
        beside = " and the tars beside it hold" if len(tars) > 1 else " holds"
        described = describe_left_out(listing.left_out)
        raise InputError(
            f"--data-dir: {printable(tars[0])}{beside} no samples, which are KEY.jpg beside KEY.cls"
            + (f"; {described}" if described else "")
        )
    return listing


def _split(listing: _Listing, classes: tuple[str, ...], data_dir: str) -> SourceSplit:
    names = [sample.key for sample in listing.samples]
    if len(set(names)) < len(names):
        stems = [posixpath.splitext(posixpath.basename(without_query(tar)))[0] for tar in listing.tars]
        names = [f"{stems[tar]}/{name}" for tar, name in zip(listing.tar_of_row, names, strict=True)]
    if len(set(names)) < len(names):
        twice = min(name for name, count in Counter(names).items() if count > 1)
        raise InputError(
            f"--data-dir {data_dir}: two tars have the name and the sample {printable(twice)}; rename one of them"
        )
    keys = [printable(name) for name in names]
    if len(set(keys)) < len(keys):
        twice = min(key for key, count in Counter(keys).items() if count > 1)
        both = " and ".join(ascii(name) for name, key in zip(names, keys, strict=True) if key == twice)
        raise InputError(f"--data-dir {data_dir}: the samples {both} would both get the key {twice}; rename one")
    labels = [sample.label for sample in listing.samples]
    offsets, sizes = ([getattr(sample, name) for sample in listing.samples] for name in ("offset", "size"))
    source = TarMembers(listing.tars, listing.tar_of_row, offsets, sizes)
    return sorted_split(classes, keys, labels, source, listing.left_out)


def _digits(listings: Sequence[_Listing]) -> tuple[str, ...]:
    different = {sample.label for listing in listings for sample in listing.samples}

    def where_is(label: int) -> str:
        return next(
            listing.where(row)
            for listing in listings
            for row, sample in enumerate(listing.samples)
            if sample.label == label
        )

    way_out = f"put a {CLASSES_FILE} with the name of each class in a line beside the tars"
    return label_names(different, "--data-dir", where_is, way_out)


def _read_classes(tars: Sequence[str]) -> tuple[str, ...]:
    """The names in the classes.txt beside the first tar or one folder up; empty when there is none."""
    folder = posixpath.dirname(without_query(tars[0]))
    for candidate in (f"{folder}/{CLASSES_FILE}", f"{posixpath.dirname(folder)}/{CLASSES_FILE}"):
        where = f"--data-dir: {printable(candidate)}"
        text = _remote_text(candidate, where) if is_url(candidate) else _local_text(candidate, where)
        if text is None:
            continue
        names = tuple(map(printable, names_of(text, where)))
        if not names:
            raise InputError(f"{where} is empty; write the name of each class in a line, or remove it")
        return names
    return ()


def _local_text(path: str, where: str) -> str | None:
    return read_text(path, where) if os.path.lexists(path) else None


def _remote_text(url: str, where: str) -> str | None:
    try:
        data = read_file(url, _MOST_TEXT_BYTES)
    except (FileNotFoundError, IsADirectoryError):
        return None
    except (OSError, ImportError, ValueError) as error:
        raise InputError(f"{where} cannot be read: {describe(error)}") from error
    return decode_text(data, where)
