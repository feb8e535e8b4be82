"""Names of classes as charts and tables show them."""

from collections import Counter
from collections.abc import Sequence

from ci2p_cache.printable import printable
from pipeline.models.class_names import readable


def words_of(classes: Sequence[str]) -> list[str]:
    """Of a number of WordNet's the words alone, where no other class has the same; any other name as it is."""
    words = [_words(name) for name in classes]
    shared = Counter(words)
    return [printable(word if shared[word] == 1 else readable(name)) for word, name in zip(words, classes, strict=True)]


def _words(name: str) -> str:
    told = readable(name)
    return told if told == name else told.removeprefix(f"{name} (").removesuffix(")")
