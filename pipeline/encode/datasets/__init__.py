"""The data sets that stage one can read, by name; each gives splits that look the same (`split.py`)."""

from collections.abc import Sequence

from ci2p_cache.errors import InputError
from pipeline.encode.datasets.animals10 import open_animals10
from pipeline.encode.datasets.folder import open_folder
from pipeline.encode.datasets.huggingface import open_huggingface
from pipeline.encode.datasets.imagenet import open_imagenet
from pipeline.encode.datasets.sample import open_sample
from pipeline.encode.datasets.split import ImageSplit
from pipeline.encode.datasets.tar_images import open_tar_images

__all__ = ["DATASETS", "SPLITS", "ImageSplit", "open_dataset"]

SPLITS = ("train", "val")

_OPENERS = {
    "sample": open_sample,
    "folder": open_folder,
    "animals10": open_animals10,
    "imagenet": open_imagenet,
    "webdataset": open_tar_images,
    "huggingface": open_huggingface,
}

DATASETS: tuple[str, ...] = tuple(_OPENERS)


def open_dataset(
    name: str, data_dir: str | None, *, splits: Sequence[str] | None, val_fraction: float | None, seed: int
) -> dict[str, ImageSplit]:
    """The wanted splits of a data set by name, "train" and "val" unless `splits` says otherwise.

    Items are listed here, images are read later. `seed` decides which images are held out when the data set has no
    validation images of its own (and what `sample` draws). Raises InputError, which names the option, its value and
    the way out.
    """
    if name not in _OPENERS:
        raise InputError(f"--dataset {name}: choose one of {', '.join(DATASETS)}")
    wanted = SPLITS if splits is None else tuple(splits)
    for split in wanted:
        if split not in SPLITS:
            raise InputError(f"--split {split}: choose one of {', '.join(SPLITS)}")
    opened = _OPENERS[name](data_dir, wanted, val_fraction, seed)
    return {split: opened[split] for split in wanted}
