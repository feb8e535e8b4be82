"""The words by which people name splits: Train, val, valid, Validation, dev, TEST, training_set."""

import re

_SPLIT_OF_WORD = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
_WORDS = "|".join(_SPLIT_OF_WORD)
_WORD = re.compile(rf"(?<![a-z])({_WORDS})(?![a-z])")
_WHOLE_NAME = re.compile(rf"({_WORDS})(?:[ _.-]?(?:set|split|data|images))?")


def split_of_folder(name: str) -> str:
    """ "train", "val" or "test" when that is what the whole name says, in any case; else ""."""
    found = _WHOLE_NAME.fullmatch(name.lower())
    return _SPLIT_OF_WORD[found[1]] if found else ""


def splits_in(name: str) -> set[str]:
    """The splits that a file's name speaks of, by words of their own: "Train-0.tar" of train, "interval" of none."""
    return {_SPLIT_OF_WORD[word] for word in _WORD.findall(name.lower())}
