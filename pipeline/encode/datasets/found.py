"""What a data set was recognised to be, before anything is held out of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ci2p_cache.left_out import LeftOut
from pipeline.encode.datasets.split import SourceSplit

SPLITS = ("train", "val", "test")
# The name of the only part of a data set that does not say what is for training and what for validation.
WHOLE = "whole"


@dataclass(frozen=True)
class FoundImages:
    """The parts that a data set has of itself. Finding them is cheap; a part is listed when it is called for, once."""

    layout: str  # for people: "class folders in train/ and val/"
    parts: Mapping[str, Callable[[], SourceSplit]]  # by a name of SPLITS, or WHOLE alone
    called: Mapping[str, str]  # what each part is called where it lies, for people: {"val": "Validation/"}
    expected: str  # how a data set of this kind should be laid out, for messages
    left_out: tuple[LeftOut, ...] = ()  # what lies beside the parts
    unlabelled: Mapping[str, str] = field(default_factory=dict)  # what would be a part if it had labels: why it is none
    default_fraction: float = 0.1  # of each class, held out of a WHOLE unless --val-fraction says otherwise
    columns: tuple[str, ...] | None = None  # of a table: the images', the labels' and, where it has one, the keys'


class Opener(Protocol):
    """Finds the images of one kind of data set.

    Raises InputError, which names the option, its value and the way out. `seed` is for what is drawn.
    """

    def __call__(self, data_dir: str | None, seed: int) -> FoundImages: ...
