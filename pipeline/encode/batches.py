"""Batches of items that are computed as they are asked for: a data set's are too many to lie about as lists."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import overload


class ComputedBatches(Sequence[list[int]]):
    """Whoever inherits says how many there are, and the items of each."""

    @abstractmethod
    def items_of(self, number: int) -> list[int]:
        """Of batch `number`, from 0 on."""

    @overload
    def __getitem__(self, number: int) -> list[int]: ...
    @overload
    def __getitem__(self, number: slice) -> list[list[int]]: ...
    def __getitem__(self, number: int | slice) -> list[int] | list[list[int]]:
        chosen = range(len(self))[number]  # counts from the end, too, and knows where it is
        return self.items_of(chosen) if isinstance(chosen, int) else [self.items_of(each) for each in chosen]
