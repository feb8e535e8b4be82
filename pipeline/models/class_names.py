"""Class names as people read them: ImageNet's are numbers of WordNet's, which timm knows the words of."""

import re
from functools import lru_cache

_WNID = re.compile(r"n\d{8}")


def readable(name: str) -> str:
    """`n01440764 (tench)`; any other name, or a number that is not among ImageNet's 1,000, as it is."""
    if _WNID.fullmatch(name) is None:
        return name
    try:
        words = _imagenet().label_name_to_description(name)
    except KeyError:
        return name
    return f"{name} ({words.partition(',')[0]})"


@lru_cache(maxsize=1)
def _imagenet():  # type: ignore[no-untyped-def]
    from timm.data import ImageNetInfo

    return ImageNetInfo("imagenet-1k")
