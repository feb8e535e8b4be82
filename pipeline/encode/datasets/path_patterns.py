"""Paths and URLs in which a person wrote a pattern: what is there by that very name is taken for it, the rest is read
as {000..127}, {train,val}, and *, ?, [...]; so "/data/set [v1]/{train,val}-*.tar" needs no escapes.
"""

import fnmatch
import itertools
import re
from collections.abc import Iterator

from ci2p_cache.errors import InputError
from pipeline.encode.datasets.places import Places

_BRACES = re.compile(r"\{([^{}]*)\}")
_MAGIC = re.compile(r"[*?[]")


def has_pattern(path: str) -> bool:
    """Whether something in a path could be read as a pattern."""
    return _MAGIC.search(path) is not None or _BRACES.search(path) is not None


def find_pattern(places: Places, base: str, pattern: str, expected: str) -> list[tuple[str, bool]]:
    """The paths that a pattern below `base` stands for, each with whether a glob found it.

    Raises InputError for a path that is missing although no glob was in it; `expected` ends the message.
    """
    return list(_find(places, base, pattern, expected, False))


def expand_braces(pattern: str) -> list[str]:
    """ "a-{00..02}.tar" -> a-00.tar a-01.tar a-02.tar; {x,y} likewise; several braces make every combination.

    Braces within braces are expanded from the inside; a brace without its other half stays.
    """
    parts = _BRACES.split(pattern)  # text, inside of braces, text, ...
    if len(parts) == 1:
        return [pattern]
    choices = [[part] if i % 2 == 0 else _choices(part) for i, part in enumerate(parts)]
    expanded = ["".join(chosen) for chosen in itertools.product(*choices)]
    return list(dict.fromkeys(each for one in expanded for each in expand_braces(one)))


def _choices(inside: str) -> list[str]:
    bounds = re.fullmatch(r"([0-9]+)\.\.([0-9]+)", inside)
    if bounds is None:
        return inside.split(",")
    first, last = bounds.groups()
    step = 1 if int(first) <= int(last) else -1
    if abs(int(last) - int(first)) > 10_000_000:
        raise InputError(f"--data-dir: {{{inside}}} stands for more than ten million names; narrow it")
    width = len(first) if first.startswith("0") or len(first) == len(last) else 0
    return [f"{number:0{width}d}" for number in range(int(first), int(last) + step, step)]


def _find(places: Places, base: str, pattern: str, expected: str, is_globbed: bool) -> Iterator[tuple[str, bool]]:
    if not pattern:
        yield base, is_globbed
        return
    head, rest = _split_head(pattern)
    here = f"{base}/{head}"
    if not has_pattern(head) or places.exists(here):
        if rest:
            yield from _find(places, here, rest, expected, is_globbed)
        elif not is_globbed:
            places.check(here, expected)
            yield here, False
        elif places.exists(here):
            yield here, True
    elif _BRACES.search(head):
        for choice in expand_braces(head):
            yield from _find(places, base, f"{choice}/{rest}" if rest else choice, expected, is_globbed)
    else:
        folders, files = places.entries(base)
        for name in sorted(folders if rest else [*folders, *files]):
            if fnmatch.fnmatchcase(name, head) and not (name.startswith(".") and not head.startswith(".")):
                yield from _find(places, f"{base}/{name}", rest, expected, True)


def _split_head(pattern: str) -> tuple[str, str]:
    """What comes before the first slash that lies outside of braces, and what comes after it."""
    depth = 0
    for i, character in enumerate(pattern):
        if character == "/" and depth <= 0:
            return pattern[:i], pattern[i + 1 :]
        depth += (character == "{") - (character == "}")
    if depth > 0 and "/" in pattern:  # a brace without its other half
        head, _, rest = pattern.partition("/")
        return head, rest
    return pattern, ""
