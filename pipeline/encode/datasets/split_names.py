"""Folders that are called like splits: train, Training, test_set, seg_train, train2017, birds_val ..."""

import re
from collections.abc import Sequence

from ci2p_cache.errors import InputError
from ci2p_cache.printable import printable

_SPLIT_OF_WORD = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev", "devel", "development"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation"), "test"),  # Food-11 tests on evaluation/
}
# Words that say nothing of the split, beside the one that does.
_NEUTRAL = frozenset({"set", "sets", "subset", "image", "images", "img", "imgs", "pic", "pics", "picture", "pictures"})
_NEUTRAL |= {"photo", "photos", "jpg", "jpeg", "jpegs", "png", "pngs", "data", "dataset", "database", "seg", "folder"}
_NEUTRAL |= {"folders", "dir", "split", "splits", "part", "partition", "resized", "cropped", "raw", "the", "of", "for"}
_NEUTRAL |= {"x", "px"}  # 256x256
_NO_LABEL = {"unknown", "unlabeled", "unlabelled", "unlabel", "no", "label", "labels", "none", "all"}
_GLUED = re.compile(rf"({'|'.join(sorted(_SPLIT_OF_WORD, key=len, reverse=True))})(sets?|data|images?|imgs?|split)")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")


def split_of_name(name: str) -> str | None:
    """The split that a folder is called like, in any case: one word of it names a split, and the others say nothing.

    Words part at _ - . and space, at digits and between aB. None for a name with two such words (train_val).
    """
    split, rest = _parse(name)
    return split if rest <= _NEUTRAL else None


def splits_in(name: str) -> set[str]:
    """The splits that a file's name speaks of, among any other words: "birds-Train-0" of train, "interval" of none."""
    return {split for word in _WORD.findall(name) if (split := _split_of_word(word.lower()))}


def split_folders(names: Sequence[str]) -> dict[str, str]:
    """Folder -> split, of those among `names` that are called like one, alone or in a pair: birds_train, birds_test."""
    parsed = {name: _parse(name) for name in names}
    found: dict[str, str] = {}
    for name, (split, rest) in parsed.items():
        if split and (
            rest <= _NEUTRAL or any(other not in (None, split) and rest == r for other, r in parsed.values())
        ):
            found[name] = split
    return found


def speaks_of_splits(names: Sequence[str]) -> bool:
    """Whether every name has a word for a split in it, whatever else, and not all the same: train_mini, test_full."""
    words = [{_SPLIT_OF_WORD.get(word.lower()) for word in _WORD.findall(name)} - {None} for name in names]
    return bool(words) and all(words) and len(set().union(*words)) > 1


def is_without_label(name: str) -> bool:
    """Whether a folder's name is no class for sure: unknown, images, test1."""
    split, rest = _parse(name)
    return bool(rest or split) and rest <= _NEUTRAL | _NO_LABEL


def check_one_of_each(folders: dict[str, str], where: str) -> None:
    """Raises InputError, naming both, when two folders are called like one split."""
    first: dict[str, str] = {}
    for folder, split in folders.items():
        other = first.setdefault(split, folder)
        if other != folder:
            raise InputError(
                f"{where}: {printable(other)}/ and {printable(folder)}/ are both named like {split}; "
                "merge them, or move one of them out of the data set"
            )


def _parse(name: str) -> tuple[str | None, frozenset[str]]:
    """(split, the other words); split is None unless exactly one word names one."""
    splits: list[str] = []
    rest: list[str] = []
    for word in (word.lower() for word in _WORD.findall(name)):
        split = _split_of_word(word)
        (splits if split else rest).append(split or word)
    return splits[0] if len(splits) == 1 else None, frozenset(rest)


def _split_of_word(word: str) -> str | None:
    glued = _GLUED.fullmatch(word)
    return _SPLIT_OF_WORD.get(glued[1] if glued else word)
