"""What a data set was recognised to be, for people, before anything is done with it."""

from ci2p_cache.errors import InputError
from ci2p_cache.left_out import describe_left_out, merge_left_out
from pipeline.encode.datasets import ImageDataset

_CLASSES_SHOWN = 10


def describe_dataset(opened: ImageDataset) -> list[str]:
    """A block of lines: the layout, images and classes by split, and what is left out."""
    lines = [f"images: {opened.layout}"]
    for name, split in opened.items():
        shown = ", ".join(split.classes[:_CLASSES_SHOWN]) + (", ..." if len(split.classes) > _CLASSES_SHOWN else "")
        lines.append(f"  {name:5s} {len(split.keys):,} images, {len(split.classes):,} classes: {shown}")
    left_out = merge_left_out(opened.left_out, *(split.left_out for split in opened.values()))
    return [*lines, f"  {describe_left_out(left_out)}"] if left_out else lines


def refuse_left_out_pictures(opened: ImageDataset) -> None:
    """Raises InputError when something that looks like an image would be left out."""
    pictures = [
        entry
        for entry in merge_left_out(opened.left_out, *(split.left_out for split in opened.values()))
        if entry.pictures
    ]
    if pictures:
        raise InputError(
            f"--data-dir: {'; '.join(map(str, pictures))} would be left out; put them where images are expected or "
            "take them away, or use --on-error skip to leave them out"
        )
