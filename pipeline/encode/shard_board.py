"""Which shard is tried where: shards that are done once, by encoders that may be lost or slow.

waiting --take--> tried by one encoder, by two at the end --finish--> done
   ^------------------------lose-------------|
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from pipeline.encode.resume import ShardWork

# A shard is tried a second time once its first try takes so much longer than shards do, and nothing else waits.
_SLOW = 1.5
_MOST_TRIES = 2  # at a time


@dataclass(frozen=True)
class _Try:
    encoder: int
    node: str
    since: float  # seconds


@dataclass
class ShardBoard:
    """The shards of a split by their numbers; times are the caller's, in seconds."""

    work: Sequence[ShardWork]
    durations: list[float] = field(default_factory=list)  # seconds, of those that are done
    losses: Counter[int] = field(default_factory=Counter)  # shard -> how many of its tries were lost
    done: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._of = {each.shard: each for each in self.work}
        self._waiting = deque(self._of)
        self._tries: dict[int, list[_Try]] = {}

    @property
    def is_done(self) -> bool:
        return len(self.done) == len(self._of)

    @property
    def num_images(self) -> int:
        """Of the shards that are done."""
        return sum(self._of[shard].num_todo for shard in self.done)

    def take(self, encoder: int, node: str, now: float) -> ShardWork | None:
        """What an idle encoder does next; None where there is nothing that it could help with."""
        shard = self._waiting.popleft() if self._waiting else self._slowest(node, now)
        if shard is None:
            return None
        self._tries.setdefault(shard, []).append(_Try(encoder, node, now))
        return self._of[shard]

    def finish(self, shard: int, encoder: int, now: float) -> None:
        """One of its tries has written a shard; the others are of no use any more."""
        self.durations += [now - each.since for each in self._tries.pop(shard, []) if each.encoder == encoder]
        self.done.add(shard)
        if shard in self._waiting:  # a try that was given up for lost
            self._waiting.remove(shard)

    def lose(self, shard: int, encoder: int) -> None:
        """The encoder is lost, and with it its try; the shard waits again unless another one has it."""
        if shard in self.done:
            return
        self.losses[shard] += 1
        others = [each for each in self._tries.pop(shard, []) if each.encoder != encoder]
        if others:
            self._tries[shard] = others
        elif shard not in self._waiting:
            self._waiting.appendleft(shard)

    def _slowest(self, node: str, now: float) -> int | None:
        """The shard whose only try is the longest past what shards take, on another node if there is one."""
        if not self.durations:
            return None
        patience = _SLOW * median(self.durations)
        slow = [
            (each[0].node == node, each[0].since, shard)
            for shard, each in self._tries.items()
            if len(each) < _MOST_TRIES and now - each[0].since > patience
        ]
        return min(slow)[2] if slow else None
