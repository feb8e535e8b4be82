"""What a data set was recognised to be, as people read it before it is encoded."""

from collections.abc import Sequence

from ci2p_cache.errors import InputError
from ci2p_cache.left_out import LeftOut, describe_left_out, merge_left_out
from ci2p_cache.printable import counted, printable
from pipeline.encode.datasets import ImageDataset
from pipeline.encode.datasets.split import ImageSplit

_NAMES_SHOWN = 10
_MAX_WIDTH = 120  # of the list of class names


def describe_dataset(opened: ImageDataset) -> list[str]:
    """Layout, then images and classes of each split, then what is left out: a few lines, however many classes."""
    where = f" in {printable(opened.data_dir)}" if opened.data_dir is not None else ""
    width = max(map(len, opened))
    lines = [f"images{where}: {opened.layout}"]
    names = ""
    for name, split in opened.items():
        before, names = names, _class_names(split.classes)
        lines.append(f"  {name:{width}}  {_counts(split)}{f': {names}' if names != before else ''}")
    left_out = _left_out(opened)
    pictures = [entry for entry in left_out if entry.pictures]
    others = [entry for entry in left_out if not entry.pictures]
    return lines + [f"  {describe_left_out(entries)}" for entries in (pictures, others) if entries]


def refuse_left_out_pictures(opened: ImageDataset) -> None:
    """Raises InputError when something that looks like an image would be left out."""
    pictures = [entry for entry in _left_out(opened) if entry.pictures]
    if pictures:
        raise InputError(
            f"--data-dir {opened.data_dir}: {'; '.join(map(str, pictures))} would be left out; put them where images "
            "are expected or take them away, or use --on-error skip to leave them out"
        )


def _left_out(opened: ImageDataset) -> tuple[LeftOut, ...]:
    return merge_left_out(opened.left_out, *(split.left_out for split in opened.values()))


def _counts(split: ImageSplit) -> str:
    num_seen = len(set(split.labels.tolist()))
    without = f" ({len(split.classes) - num_seen:,} without images)" if num_seen < len(split.classes) else ""
    return f"{counted(len(split.keys), 'image')}, {counted(len(split.classes), 'class')}{without}"


def _class_names(classes: Sequence[str]) -> str:
    shown: list[str] = []
    for name in classes[:_NAMES_SHOWN]:
        if shown and len(", ".join([*shown, name])) > _MAX_WIDTH:
            break
        shown.append(name if len(name) <= _MAX_WIDTH else f"{name[: _MAX_WIDTH - 3]}...")
    return ", ".join(shown) + (", ..." if len(shown) < len(classes) else "")
