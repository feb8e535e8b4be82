"""What a data set holds and a cache does not: every file is an item, a label, or counted and named here."""

from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

_NAMES_KEPT = 10
_NAMES_SHOWN = 3


class LeftOut(BaseModel):
    """Files of one kind that are left out: how many, and the first of them in alphabetical order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str  # "files that are no images by their name"
    count: int
    names: tuple[str, ...]  # ten at most
    pictures: bool = False  # whether they look like images: such ones are not left out unless the user asked

    def __str__(self) -> str:
        shown = ", ".join(self.names[:_NAMES_SHOWN]) + (", ..." if self.count > _NAMES_SHOWN else "")
        return f"{self.what} ({self.count:,}: {shown})"


class LeftOutFiles:
    """Collects names while a data set is listed, millions of them in little memory."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, bool], tuple[int, list[str]]] = {}

    def add(self, what: str, name: str, *, pictures: bool = False) -> None:
        """Counts one file under `what`, a plural such as "hidden files"."""
        count, names = self._found.get((what, pictures), (0, []))
        names.append(name)
        if len(names) > 100 * _NAMES_KEPT:
            names = sorted(names)[:_NAMES_KEPT]
        self._found[what, pictures] = (count + 1, names)

    def listed(self) -> tuple[LeftOut, ...]:
        """An entry for each kind, in alphabetical order of `what`."""
        return tuple(
            LeftOut(what=what, count=count, names=tuple(sorted(names)[:_NAMES_KEPT]), pictures=pictures)
            for (what, pictures), (count, names) in sorted(self._found.items())
        )


def merge_left_out(*lists: Iterable[LeftOut]) -> tuple[LeftOut, ...]:
    """One list of several, those of one kind added up."""
    kinds: dict[tuple[str, bool], list[LeftOut]] = {}
    for each in lists:
        for entry in each:
            kinds.setdefault((entry.what, entry.pictures), []).append(entry)
    return tuple(_add_up(entries) for _, entries in sorted(kinds.items()))


def describe_left_out(left_out: Sequence[LeftOut]) -> str:
    """For people, in one line: "left out: files that are no tars (12: x.txt, ...); hidden files (3: .a, .b, .c)"."""
    return f"left out: {'; '.join(map(str, left_out))}" if left_out else ""


def _add_up(entries: Sequence[LeftOut]) -> LeftOut:
    names = sorted(name for entry in entries for name in entry.names)[:_NAMES_KEPT]
    return entries[0].model_copy(update={"count": sum(entry.count for entry in entries), "names": tuple(names)})
