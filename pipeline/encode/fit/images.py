"""The images of a codec's training: which they are, and why one of them cannot be used."""

import hashlib
import logging
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.left_out import LeftOutFiles, describe_left_out
from ci2p_cache.packed_strings import PackedStrings
from ci2p_cache.printable import counted, printable
from ci2p_cache.regular_file import read_regular
from pipeline.encode.datasets.listing import image_files
from pipeline.encode.preprocess import BadImage, decode, unreadable
from pipeline.running.pixel_limit import MAX_PIXELS

logger = logging.getLogger("ci2p")

OnError = Literal["stop", "skip"]
GONE = "gone"

_HELD_OUT_SHARE = 100  # one image in so many is for evaluation when no folder is given for it
_MOST_HELD_OUT = 64
_NUM_SHOWN = 3


@dataclass(frozen=True)
class Images:
    """Images below a folder: posix names relative to it, sorted. Picklable, and small for millions of names."""

    root: Path
    names: PackedStrings
    max_pixels: int = MAX_PIXELS  # of an image that can be used

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.root / self.names[index]

    def key_of(self, name: str) -> str:
        """What the report calls an image: the folder's own name and the path below it."""
        return printable(f"{self.root.name}/{name}")

    def subset(self, indices: Iterable[int]) -> "Images":
        return replace(self, names=PackedStrings(self.names[index] for index in indices))


def list_images(folder: str, option: str, on_error: OnError = "stop", max_pixels: int = MAX_PIXELS) -> Images:
    """All image files below a folder, at any depth; what else lies there is counted in a warning.

    Raises InputError when there is none and, under "stop", for what looks like an image and would be left out.
    """
    root = Path(os.path.expanduser(folder))  # noqa: PTH111  (Path's raises where there is no such user)
    if not folder or not root.is_dir():
        raise InputError(f"{option} {folder}: there is no such folder; give one with images in it, at any depth")
    root = root.resolve()
    left_out = LeftOutFiles()
    names = [name.removeprefix(f"{root.name}/") for name in image_files(root.parent, root.name, left_out)]
    pictures = [entry for entry in left_out.listed() if entry.pictures]
    if pictures and on_error == "stop":
        raise InputError(
            f"{option} {folder}: {'; '.join(map(str, pictures))} would be left out; take them away, or use --on-error "
            "skip to leave them out"
        )
    if left_out.listed():
        logger.warning("%s: %s", root, describe_left_out(left_out.listed()))
    if not names:
        raise InputError(f"{option} {folder}: no images below it; give a folder with images in it, at any depth")
    return Images(root, PackedStrings(sorted(names)), max_pixels)


def hold_out(images: Images, seed: int) -> tuple[Images, Images]:
    """(for training, for evaluation): one image in a hundred, 64 at most. Raises InputError for too few images."""
    num_held_out = min(_MOST_HELD_OUT, len(images) // _HELD_OUT_SHARE)
    if not num_held_out:
        raise InputError(
            f"--data-dir {images.root} has {counted(len(images), 'image')}, too few to hold one in {_HELD_OUT_SHARE} "
            "out for evaluation; give --eval-dir"
        )
    held_out = set(np.random.default_rng(seed).choice(len(images), num_held_out, replace=False).tolist())
    return (
        images.subset(index for index in range(len(images)) if index not in held_out),
        images.subset(sorted(held_out)),
    )


def as_begun(planned: PackedStrings, listed: Images, checkpoint: Path, on_error: OnError) -> Images:
    """The images that a training was begun with, of which some may have gone since.

    Raises InputError for images that are new, and WorkError for those that have gone unless they are to be skipped.
    """
    begun, found = set(planned), set(listed.names)
    if not begun & found:
        raise InputError(
            f"{checkpoint} was begun with data-dir images of which none is in {listed.root}; give the same --data-dir "
            "to continue it, or another --out"
        )
    new, gone = sorted(found - begun), sorted(begun - found)
    if new:
        raise InputError(
            f"--data-dir {listed.root}: {_are(len(new))} new since the checkpoint {checkpoint} ({shown(new)}): move "
            f"{'it' if len(new) == 1 else 'them'} out, or give another --out"
        )
    if gone and on_error == "stop":
        raise WorkError(
            f"--data-dir {listed.root}: {_are(len(gone))} gone since the checkpoint {checkpoint} ({shown(gone)}): put "
            f"{'it' if len(gone) == 1 else 'them'} back, or use --on-error skip to go on without"
        )
    return replace(listed, names=planned)


def pack_names(names: Sequence[str]) -> bytes:
    """Names as one compressed block; those that are not UTF-8 survive."""
    return zlib.compress("\0".join(names).encode("utf-8", "surrogateescape"))


def unpack_names(packed: bytes) -> PackedStrings:
    """The inverse of `pack_names`. Raises zlib.error for other bytes."""
    return PackedStrings(zlib.decompress(packed).decode("utf-8", "surrogateescape").split("\0"))


def hash_names(names: Sequence[str]) -> str:
    """What checkpoints of format version 1 keep of the names of the training images."""
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An RGB image of its own size. Raises BadImage when it cannot be used, or is not there."""
    try:
        return decode(read_regular(path), max_pixels=max_pixels)
    except (FileNotFoundError, NotADirectoryError):
        raise BadImage(GONE) from None
    except OSError as error:
        raise BadImage(unreadable(error)) from error


def unusable(path: Path, reason: str) -> WorkError:
    """The error that ends a training under `--on-error stop`."""
    if reason == GONE:
        return WorkError(f"{path}: {GONE}; put it back, or use --on-error skip to go on without such images")
    return WorkError(
        f"{path}: {reason}; mend or remove it, and run the same command again, with --on-error skip if it was removed"
    )


def shown(names: Sequence[str]) -> str:
    """The first of some names, for a message."""
    return printable(", ".join(names[:_NUM_SHOWN])) + (", ..." if len(names) > _NUM_SHOWN else "")


def _are(count: int) -> str:
    return "1 image is" if count == 1 else f"{count} images are"
