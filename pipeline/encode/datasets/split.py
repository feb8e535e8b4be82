"""What a split of a data set is, and the one that all data sets here hand out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.errors import InputError
from ci2p_cache.left_out import LeftOut
from ci2p_cache.packed_strings import PackedStrings
from ci2p_cache.scratch import taken


class Stamp(NamedTuple):
    """What tells without reading it that a file may have changed; -1 where it is not to be had cheaply."""

    num_bytes: int = -1
    modified_ns: int = -1  # since 1970, of the file or of the tar around it


UNKNOWN_STAMP = Stamp()


class ImageSplit(Protocol):
    """One split of a data set: a sorted list of items that are read by index.

    Picklable, so that worker processes can read it, spawned ones too.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names for people, in the order of the labels; no two are the same."""

    @property
    def keys(self) -> Sequence[str]:
        """A name for each item: unique, sorted, the same on every machine, e.g. "n01440764/n01440764_10026"."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """[num_items], indices into `classes`."""

    def read_bytes(self, index: int) -> bytes:
        """The encoded image file of an item. Raises OSError when it cannot be read."""

    def stamp(self, index: int) -> Stamp:
        """Size and time of an item's file. Raises OSError when there is no such file."""

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What lies among the images of the split and is none of its items."""


class ImageSource(Protocol):
    """Where encoded images lie: a folder, tars, a table. Picklable."""

    def read(self, row: int) -> bytes:
        """The encoded image in a row of the source. Raises OSError when it cannot be read."""

    def stamp(self, row: int) -> Stamp:
        """Size and time of what `read` reads. Raises OSError when there is no such file."""


@dataclass(frozen=True, eq=False)
class SourceSplit:
    """An ImageSplit whose item i is row `rows[i]` of a source."""

    classes: tuple[str, ...]
    keys: PackedStrings
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    source: ImageSource
    left_out: tuple[LeftOut, ...] = ()

    def read_bytes(self, index: int) -> bytes:
        return self.source.read(int(self.rows[index]))

    def stamp(self, index: int) -> Stamp:
        return self.source.stamp(int(self.rows[index]))

    def subset(self, indices: NDArray[np.int64]) -> "SourceSplit":
        """The items at `indices`, which must be ascending so that the keys stay sorted."""
        assert np.all(np.diff(indices) > 0), "indices must be ascending"
        return SourceSplit(self.classes, self.keys.take(indices), self.labels[indices], self.rows[indices], self.source)


def sorted_split(
    classes: tuple[str, ...],
    keys: Sequence[str],
    labels: Sequence[int] | NDArray[np.integer[Any]],
    source: ImageSource,
    left_out: tuple[LeftOut, ...] = (),
) -> SourceSplit:
    """A split of a source whose row i has `keys[i]` and `labels[i]`; the items are put in the order of their keys.

    Raises InputError when two items have one key or two classes one name.
    """
    packed = keys if isinstance(keys, PackedStrings) else PackedStrings(keys)
    rows = packed.order()
    in_order = packed.take(rows)
    repeated = in_order.first_repeated()
    if repeated is not None:
        before, row = rows[repeated - 1 : repeated + 1].tolist()
        raise InputError(
            f"--data-dir: two images have the name {packed[row]} (numbers {before + 1} and {row + 1} of "
            f"{len(packed)}); rename or remove one of them"
        )
    for name, count in Counter(classes).items():
        if count > 1:
            raise InputError(f"--data-dir: {count} classes have the name {name}; rename all but one of them")
    return SourceSplit(
        classes=classes,
        keys=in_order,
        labels=taken(np.asarray(labels), rows, np.int64),
        rows=rows,
        source=source,
        left_out=left_out,
    )
