"""Which sample comes when, and which of its views: pure functions of (seed, epoch, step) (promises T1 and T2)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ci2p_cache.permutation import drawn, keys_of, permuted

# Streams of random numbers that must not be one another's copies.
_ORDER_STREAM = 1
_VIEW_STREAM = 2
_WINDOW_STREAM = 3

# What a window of shards holds: images enough for batches as mixed as the data set, in bytes of which a process can
# hold twice as many. They decide the order of a remote cache: its runs do not resume across a change of them.
_WINDOW_IMAGES = 16_384
_WINDOW_BYTES = 2**30

_PLACES_AT_ONCE = 4096  # in one go they cost a twentieth of what they cost one batch after another
ORDER_VERSION = 2  # of the functions here: a run that was begun in another order does not go on in this one


def epoch_samples(places: NDArray[np.int64], num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The samples at these places of an epoch, int64 [n]; those of all places are a permutation of range(num_samples).

    Nothing is kept and nothing but these is computed, however many samples there are.
    """
    return permuted(places, num_samples, keys_of(_ORDER_STREAM, seed, epoch))


def window_shards(shard_size: int, shard_bytes: int) -> int:
    """How many shards are a window: as hold 16,384 images, or fewer where these would take more than 1 GiB; at least 1.

    `shard_size` counts images; `shard_bytes` is what the largest shard of the split takes.
    """
    return max(1, min(-(-_WINDOW_IMAGES // shard_size), _WINDOW_BYTES // max(1, shard_bytes)))


def shard_windows(num_shards: int, window_shards: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The window of an epoch that each shard lies in, int64 [S]: the shards permuted, then cut, the last one short."""
    return permuted(np.arange(num_shards), num_shards, keys_of(_WINDOW_STREAM, seed, epoch)) // window_shards


def view_choice(samples: NDArray[np.int64], num_views: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Which view each of these samples shows in an epoch, int64 [n] in [0, num_views).

    Every sample starts somewhere on a round through the views, drawn by seed, and goes one step an epoch: `num_views`
    epochs in a row show every view of every sample once, and none comes back earlier. With plain and mirror alone
    that is alternating flip. With crops the round goes from picture to picture, mirrored every other time (plain,
    crop0-mirror, crop1, ...), and then through the halves left out (mirror, crop0, crop1-mirror, ...), so that a run
    of fewer epochs than views still sees as many pictures as it has epochs for.
    """
    first = drawn(samples, num_views, keys_of(_VIEW_STREAM, seed))
    place: NDArray[np.int64] = (first + epoch) % num_views
    if num_views % 2:
        return place  # without mirror images
    half, picture = np.divmod(place, num_views // 2)
    view: NDArray[np.int64] = 2 * picture + (picture + half) % 2
    return view


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Full global batches in an epoch; a data set smaller than a batch makes one short step."""
    return max(1, num_samples // batch_size)


def batch_places(step: int, batch_size: int, num_samples: int) -> NDArray[np.int64]:
    """The places in its epoch that a step takes, over all ranks, int64 [B]."""
    return np.arange(step * batch_size, min((step + 1) * batch_size, num_samples))


def rank_slice(batch: NDArray[np.int64], rank: int, world_size: int) -> NDArray[np.int64]:
    """The part of a global batch that one rank takes; the parts together are the batch."""
    return batch[rank::world_size]


@dataclass(frozen=True, eq=False)
class Shards:
    """Where the samples of a remote cache lie, which is read a window of shards after another."""

    first_samples: NDArray[np.int64]  # [S + 1] the first sample of each shard, and how many there are
    window_shards: int  # shards a window

    @property
    def num_shards(self) -> int:
        return len(self.first_samples) - 1

    def of(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """The shard of each of [n] samples."""
        shard_n: NDArray[np.int64] = np.searchsorted(self.first_samples, samples, "right") - 1
        return shard_n


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of one epoch, one after another.

    The samples of a window come in an order of their own, so that a single window makes no difference. The plan has
    shuffled the samples across the shards once (see `plan`), so any shards together are a random part of the data set,
    another one every epoch; only, samples of one shard stay together for all epochs.
    """

    shards: Shards
    window_of_shard: NDArray[np.int64]  # [S]

    def samples(self, places: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
        """The samples at these places of the epoch, int64 [n], as `epoch_samples`."""
        first_W, first_S, begins = self.window_begins, self.place_begins, self.shards.first_samples
        window_n = np.searchsorted(first_W, places, "right") - 1
        begin_n = first_W[window_n]
        sizes = first_W[window_n + 1] - begin_n
        mixed = begin_n + permuted(places - begin_n, sizes, keys_of(_ORDER_STREAM, seed, epoch), window_n)
        at_n = np.searchsorted(first_S, mixed, "right") - 1
        samples: NDArray[np.int64] = begins[self.by_window[at_n]] + mixed - first_S[at_n]
        return samples

    def ahead(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """The shards to hold while these samples are read, in the order of their windows, int64.

        They are those of two windows, the one that the first sample lies in and the next; those of more where the
        samples themselves lie in more.
        """
        windows: NDArray[np.int64] = self.window_of_shard[self.shards.of(samples)]
        if not len(windows):
            return windows
        first, last = windows.min(), max(windows.max(), windows.min() + 1)
        begin, end = np.searchsorted(self.window_of_shard[self.by_window], [first, last + 1])
        ahead: NDArray[np.int64] = self.by_window[begin:end]
        return ahead

    @cached_property
    def by_window(self) -> NDArray[np.int64]:
        """[S] the shards, window after window, ascending in each."""
        shards: NDArray[np.int64] = np.argsort(self.window_of_shard, kind="stable")
        return shards

    @cached_property
    def place_begins(self) -> NDArray[np.int64]:
        """[S + 1] the first place of each shard of `by_window`, were its window not mixed."""
        return np.concatenate([[0], np.cumsum(np.diff(self.shards.first_samples)[self.by_window])])

    @cached_property
    def window_begins(self) -> NDArray[np.int64]:
        """[W + 1] the first place of each window."""
        num_windows = int(self.window_of_shard.max()) + 1
        at = np.searchsorted(self.window_of_shard[self.by_window], np.arange(num_windows + 1))
        begins: NDArray[np.int64] = self.place_begins[at]
        return begins


@dataclass(frozen=True)
class BatchOrder:
    """What each batch of one rank is made of, epoch by epoch; it holds no state, and a step costs what it holds.

    Training (`shuffle`): full global batches, every rank the same number of steps. Evaluation: every sample once over
    all ranks, in order, the last batch short; a rank may run out earlier than another.

    Given `shards`, training goes through their windows. Evaluation needs no other order: samples that come in order
    touch the shards in order.
    """

    num_samples: int
    num_views: int
    batch_size: int  # over all ranks
    seed: int
    rank: int
    world_size: int
    shuffle: bool
    view: int | None  # of every sample; None: the one that `view_choice` gives it
    shards: Shards | None = None  # of a remote cache

    @property
    def steps_per_epoch(self) -> int:
        """The same on every rank when training; this rank's own count at evaluation."""
        if self.shuffle:
            return steps_per_epoch(self.num_samples, self.batch_size)
        mine = len(range(self.rank, self.num_samples, self.world_size))
        return -(-mine // (self.batch_size // self.world_size))

    def windows(self, epoch: int) -> Windows | None:
        """The windows that an epoch goes through, in order; None where any sample may be read at any time."""
        if self.shards is None:
            return None
        num_shards, window_shards = self.shards.num_shards, self.shards.window_shards
        if self.shuffle:
            return Windows(self.shards, shard_windows(num_shards, window_shards, self.seed, epoch))
        return Windows(self.shards, np.arange(num_shards) // window_shards)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yields (samples [B], the view of each [B]) step by step, from `first_step` on."""
        windows = self.windows(epoch)
        at_once = max(1, _PLACES_AT_ONCE // self.batch_size)
        for first in range(first_step, self.steps_per_epoch, at_once):
            batches = [
                rank_slice(batch_places(step, self.batch_size, self.num_samples), self.rank, self.world_size)
                for step in range(first, min(first + at_once, self.steps_per_epoch))
            ]
            samples = np.concatenate(batches)
            if self.shuffle and windows is None:
                samples = epoch_samples(samples, self.num_samples, self.seed, epoch)
            elif self.shuffle and windows is not None:
                samples = windows.samples(samples, self.seed, epoch)
            if self.view is None:
                views = view_choice(samples, self.num_views, self.seed, epoch)
            else:
                views = np.full(len(samples), self.view)
            cuts = np.cumsum([len(batch) for batch in batches])[:-1]
            yield from zip(np.split(samples, cuts), np.split(views, cuts), strict=True)
