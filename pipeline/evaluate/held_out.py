"""Which images of a folder are measured: exactly those that were held out, or another folder whole (promise C7).

the folder's images, by key --those of the split, with the content they had--> measured, however much lies beside them
no such image               --> other images: all are measured, unless the model was trained on one of them
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.items import hash_content
from ci2p_cache.known_images import HeldOut, KnownBy, KnownImages, as_ids, content_id, name_id
from ci2p_cache.printable import counted
from pipeline.encode.datasets import ImageSplit
from pipeline.encode.datasets.split import Stamp
from pipeline.running.progress import progress

_READING_THREADS = 8
_QUIET_IMAGES = 1000
_SHOWN = 3


@dataclass(frozen=True, eq=False)
class ChosenImages:
    """An ImageSplit of some images of another, under labels of the model's."""

    classes: tuple[str, ...]
    keys: Sequence[str]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]  # into `images`
    images: ImageSplit
    described: str  # for people: which they are
    num_missing: int = 0  # images of the split that are not there
    changed: tuple[str, ...] = ()  # keys of the split whose files hold something else now

    @property
    def left_out(self) -> tuple[()]:
        return ()

    def read_bytes(self, index: int) -> bytes:
        return self.images.read_bytes(int(self.indices[index]))

    def stamp(self, index: int) -> Stamp:
        return self.images.stamp(int(self.indices[index]))


def choose_images(
    images: ImageSplit, folder: str, split: str, known: KnownImages, wanted: HeldOut, classes: tuple[str, ...]
) -> ChosenImages:
    """The images of a folder to measure a model on: those `wanted` of a split, or all where none of these is there.

    Labels are the places of the class names in `classes`. Raises InputError when the model was trained on images of a
    folder that is measured whole, naming them, or when it does not know a class of it.
    """
    place_of = {key: place for place, key in enumerate(wanted.keys)}
    there = [index for index, key in enumerate(images.keys) if key in place_of]
    ids = _identify(images, there, known.by)
    same = ids == wanted.ids[[place_of[images.keys[index]] for index in there]]
    if same.any():
        found = np.array(there, dtype=np.int64)
        described = (
            f"{same.sum()} of the {counted(len(wanted.keys), 'image')} of {split} that the model's data set holds"
        )
        if split == "train":
            described += ", which the model was trained on"
        return _choose(
            images,
            found[same],
            classes,
            folder,
            described=f"{described}, found by key in {folder}",
            num_missing=len(wanted.keys) - len(there),
            changed=tuple(images.keys[index] for index in found[~same].tolist()),
        )
    everything = np.arange(len(images.keys))
    described = f"{_all(len(everything))} of {folder}, another folder than the model's data set"
    if known.by == "name":
        described += " (whether it was trained on some is not known: its cache is of format version 1)"
    else:
        trained = np.isin(_identify(images, everything.tolist(), known.by), known.trained)
        if trained.any():
            keys = [images.keys[index] for index in np.flatnonzero(trained)[:_SHOWN].tolist()]
            raise InputError(
                f"--images {folder}: the model was trained on {trained.sum()} of its "
                f"{counted(len(everything), 'image')} ({', '.join(keys)}{', ...' if trained.sum() > _SHOWN else ''}), "
                f"and none of {split} is there; give the folder that the cache was made from, or other images"
            )
        described += ": it was trained on none of them"
    return _choose(images, everything, classes, folder, described=described)


def _choose(
    images: ImageSplit,
    indices: NDArray[np.int64],
    classes: tuple[str, ...],
    folder: str,
    *,
    described: str,
    num_missing: int = 0,
    changed: tuple[str, ...] = (),
) -> ChosenImages:
    label_of = {name: label for label, name in enumerate(classes)}
    names = [images.classes[label] for label in images.labels[indices].tolist()]
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise InputError(
            f"--images {folder}: the model does not know the class {unknown[0]}; take it out of the folder"
        )
    keys = [images.keys[index] for index in indices.tolist()]
    labels = np.array([label_of[name] for name in names], dtype=np.int64)
    return ChosenImages(classes, keys, labels, indices, images, described, num_missing, changed)


def _identify(images: ImageSplit, indices: Sequence[int], by: KnownBy) -> NDArray[np.uint64]:
    """The identity of each image, uint64 [n]; 0 for one that cannot be read, which decoding will name."""

    def identify(index: int) -> int:
        try:
            if by == "content":
                return content_id(hash_content(images.read_bytes(index)))
            return name_id(images.keys[index], images.stamp(index).num_bytes if by == "name and size" else -1)
        except OSError:
            return 0

    with (
        ThreadPoolExecutor(_READING_THREADS, thread_name_prefix="ci2p-identify") as threads,
        progress("identify", len(indices), "images", quiet=len(indices) < _QUIET_IMAGES) as advance,
    ):
        ids = []
        for each in threads.map(identify, indices):
            ids.append(each)
            advance(1)
    return as_ids(ids)


def refuse_changed(chosen: ChosenImages) -> None:
    """Raises WorkError when images of the split hold something else than what was encoded."""
    if chosen.changed:
        shown = ", ".join(chosen.changed[:_SHOWN]) + (", ..." if len(chosen.changed) > _SHOWN else "")
        raise WorkError(
            f"images that have changed since they were encoded: {len(chosen.changed)} ({shown}); put them back, or use "
            "--on-error skip to leave them out"
        )


def _all(count: int) -> str:
    return "the one image" if count == 1 else f"all {count} images"
