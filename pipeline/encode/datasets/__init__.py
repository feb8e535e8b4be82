"""The data sets that stage one can read, by name; each gives splits that look the same (`split.py`)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ci2p_cache.errors import InputError
from ci2p_cache.left_out import LeftOut, merge_left_out
from ci2p_cache.printable import printable
from pipeline.encode.datasets.animals10 import find_animals10
from pipeline.encode.datasets.folder import find_folder
from pipeline.encode.datasets.found import SPLITS, WHOLE, FoundImages, Opener
from pipeline.encode.datasets.holdout import check_fraction, hold_out
from pipeline.encode.datasets.huggingface import find_huggingface
from pipeline.encode.datasets.imagenet import find_imagenet
from pipeline.encode.datasets.parquet import find_parquet
from pipeline.encode.datasets.sample import find_sample
from pipeline.encode.datasets.split import ImageSplit, SourceSplit
from pipeline.encode.datasets.table_columns import NO_COLUMNS, TableColumns, known_columns, refuse_columns
from pipeline.encode.datasets.tar_images import find_tar_images

__all__ = ["DATASETS", "SPLITS", "ImageDataset", "ImageSplit", "open_dataset", "open_pool", "part_images"]

_OPENERS: dict[str, Opener] = {
    "sample": find_sample,
    "folder": find_folder,
    "animals10": find_animals10,
    "imagenet": find_imagenet,
    "webdataset": find_tar_images,
    "huggingface": find_huggingface,
    "parquet": find_parquet,
}

DATASETS: tuple[str, ...] = tuple(_OPENERS)


@dataclass(frozen=True)
class ImageDataset(Mapping[str, ImageSplit]):
    """The splits of a data set, by name, and how they were found."""

    splits: Mapping[str, ImageSplit]
    layout: str  # for people: what it was recognised to be, and what was held out of what
    data_dir: str | None
    left_out: tuple[LeftOut, ...]  # what lies beside the splits; what lies in one is the split's own
    val_fraction: float | None  # of each class, held out for val; None where the data set has a val of its own
    pool: SourceSplit | None = None  # what val was held out of
    drawn: Mapping[str, SourceSplit] = field(default_factory=dict)  # both parts of that, "train" and "val"
    columns: tuple[str, ...] | None = None  # of a table: as `CacheSpec.columns`

    def __getitem__(self, split: str) -> ImageSplit:
        return self.splits[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self.splits)

    def __len__(self) -> int:
        return len(self.splits)

    def left_out_of(self, split: str) -> tuple[LeftOut, ...]:
        """What lies in the data set, in a split or beside all of them, and is no item."""
        return merge_left_out(self.left_out, self.splits[split].left_out)


def open_dataset(
    name: str,
    data_dir: str | None,
    *,
    splits: Sequence[str] | None,
    val_fraction: float | None,
    seed: int,
    columns: TableColumns = NO_COLUMNS,
) -> ImageDataset:
    """The wanted splits of a data set by name, all that there are unless `splits` says otherwise.

    Items are listed here, images are read later. Where the data set has no validation images, its test images stand in
    for them; where it has none of either, a fraction of each class is held out, decided by `seed` (which also decides
    what `sample` draws). Raises InputError, which names the option, its value and the way out.
    """
    _refuse_unknown(splits)
    return part_images(
        _find(name, data_dir, seed, columns), data_dir, splits=splits, val_fraction=val_fraction, seed=seed
    )


def part_images(
    found: FoundImages, data_dir: str | None, *, splits: Sequence[str] | None, val_fraction: float | None, seed: int
) -> ImageDataset:
    """The wanted splits of images that have been found: as `open_dataset` says. Without `data_dir` they were given."""
    _refuse_unknown(splits)
    where = found.layout if data_dir is None else f"--data-dir {printable(data_dir)}"
    parted, fraction = _to_be_parted(found, splits, val_fraction, where)
    own = {split: split for split in SPLITS if split in found.parts}
    if "val" not in own and "test" in own and val_fraction is None:
        own["val"] = own.pop("test")
    available = {*own, *(("train", "val") if parted else ())}
    wanted = [split for split in SPLITS if split in (splits or {*available, "train"})]
    for split in wanted:
        if split not in available:
            raise InputError(_lacks(where, split, found, own))
    layout, left_out, pool, drawn = found.layout, found.left_out, None, {}
    if parted is not None:
        pool = found.parts[parted]()
        drawn = hold_out(pool, fraction, seed)
        left_out = merge_left_out(left_out, pool.left_out)
        layout += f"; {100 * fraction:g} % of each class held out for val"
    elif own.get("val") == "test":
        layout += f"; {found.called['test']} is val"
    opened = {split: drawn[split] if split in drawn else found.parts[own[split]]() for split in wanted}
    return ImageDataset(opened, layout, data_dir, left_out, fraction if parted else None, pool, drawn, found.columns)


def _to_be_parted(
    found: FoundImages, splits: Sequence[str] | None, val_fraction: float | None, where: str
) -> tuple[str | None, float]:
    """The part that val is held out of, if it must be, and how much of each class."""
    parted = next((part for part in (WHOLE, "train") if part in found.parts), None)
    if val_fraction is not None:
        check_fraction(val_fraction)
        if "val" in found.parts or parted is None:
            holds = found.called.get("val", "val")
            raise InputError(
                f"--val-fraction {val_fraction}: {holds} holds the validation images; leave the option out"
            )
        return parted, val_fraction
    if parted == WHOLE:
        return WHOLE, found.default_fraction
    if not {"val", "test"} & set(found.parts) and parted == "train" and (splits is None or "val" in splits):
        raise InputError(
            f"{where}: no validation images (found {found.called['train']}){_unlabelled(found)}; add some, or hold "
            f"images out of the training images with --val-fraction 0.1; {found.expected}"
        )
    return None, 0.0


def open_pool(
    name: str,
    data_dir: str | None,
    split: str,
    *,
    is_held_out: bool,
    seed: int,
    columns: tuple[str, ...] | None = None,
    classes: Sequence[str] | None = None,
) -> SourceSplit:
    """All images of a data set among which those of a split lie: its own part, or what it was held out of.

    `is_held_out` says whether val is known to have been held out by ci2p, `columns`
    and `classes` what a cache knows of the table that it was made from. Raises InputError as `open_dataset` does.
    """
    found = _find(name, data_dir, seed, known_columns(columns, classes))
    own = (split, "test") if split == "val" else (split,)
    parted = (WHOLE, "train")
    for part in (*parted, *own) if is_held_out and split != "test" else (*own, *parted):
        if part in found.parts:
            return found.parts[part]()
    raise InputError(
        _lacks(f"--data-dir {printable(data_dir or '')}", split, found, {part: part for part in found.parts})
    )


def _refuse_unknown(splits: Sequence[str] | None) -> None:
    for split in splits or ():
        if split not in SPLITS:
            raise InputError(f"--split {split}: choose one of {', '.join(SPLITS)}")


def _find(name: str, data_dir: str | None, seed: int, columns: TableColumns) -> FoundImages:
    if name not in _OPENERS:
        raise InputError(f"--dataset {name}: choose one of {', '.join(DATASETS)}")
    if name == "parquet":
        return find_parquet(data_dir, seed, columns)
    refuse_columns(name, columns)
    return _OPENERS[name](data_dir, seed)


def _lacks(where: str, split: str, found: FoundImages, source: Mapping[str, str]) -> str:
    if split == "test" and source.get("val") == "test":
        return f"{where}: {found.called['test']} stands in for val, since there is no val; give --split val"
    there = ", ".join(found.called.get(part, part) for part in found.parts)
    if split in found.unlabelled:
        return f"{where}: there is no {split} (found {there}), for {found.unlabelled[split]}; {found.expected}"
    return f"{where}: there is no {split} (found {there}); {found.expected}"


def _unlabelled(found: FoundImages) -> str:
    return f", and {found.unlabelled['test']}" if "test" in found.unlabelled else ""
