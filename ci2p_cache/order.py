"""Which sample comes when, and which of its views: pure functions of (seed, epoch, step) (promises T1 and T2)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Streams of random numbers that must not be one another's copies.
_ORDER_STREAM = 1
_VIEW_STREAM = 2
_WINDOW_STREAM = 3

# What a window of shards holds: images enough for batches as mixed as the data set, in bytes of which a process can
# hold twice as many. They decide the order of a remote cache: its runs do not resume across a change of them.
_WINDOW_IMAGES = 16_384
_WINDOW_BYTES = 2**30


def epoch_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of range(num_samples), int64 [N]."""
    return np.random.default_rng([_ORDER_STREAM, seed, epoch]).permutation(num_samples)


def window_shards(shard_size: int, shard_bytes: Sequence[int]) -> int:
    """How many shards are a window: as hold 16,384 images, or fewer where these would take more than 1 GiB; at least 1.

    `shard_size` counts images; `shard_bytes` is what each shard of the split takes.
    """
    return max(1, min(-(-_WINDOW_IMAGES // shard_size), _WINDOW_BYTES // max([1, *shard_bytes])))


def shard_windows(num_shards: int, window_shards: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The window of an epoch that each shard lies in, int64 [S]: the shards permuted, then cut, the last one short."""
    window_S = np.empty(num_shards, np.int64)
    shuffled = np.random.default_rng([_WINDOW_STREAM, seed, epoch]).permutation(num_shards)
    window_S[shuffled] = np.arange(num_shards) // window_shards
    return window_S


def window_order(window_N: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of range(N) that reads one window after another, int64 [N], from the window of each sample.

    Each window's samples come in the order that `epoch_order` has them in, so a single window makes no difference.
    The plan has shuffled the samples across the shards once (see `plan`), so any shards together are a random part of
    the data set, another one every epoch; only, samples of one shard stay together for all epochs.
    """
    mixed = epoch_order(len(window_N), seed, epoch)
    return mixed[np.argsort(window_N[mixed], kind="stable")]


def view_choice(num_samples: int, num_views: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Which view each sample shows in an epoch, int64 [N] in [0, num_views).

    Every sample starts somewhere on a round through the views, drawn by seed, and goes one step an epoch: `num_views`
    epochs in a row show every view of every sample once, and none comes back earlier. With plain and mirror alone
    that is alternating flip. With crops the round goes from picture to picture, mirrored every other time (plain,
    crop0-mirror, crop1, ...), and then through the halves left out (mirror, crop0, crop1-mirror, ...), so that a run
    of fewer epochs than views still sees as many pictures as it has epochs for.
    """
    first = np.random.default_rng([_VIEW_STREAM, seed]).integers(0, num_views, num_samples)
    place: NDArray[np.int64] = (first + epoch) % num_views
    if num_views % 2:
        return place  # without mirror images
    half, picture = np.divmod(place, num_views // 2)
    view: NDArray[np.int64] = 2 * picture + (picture + half) % 2
    return view


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Full global batches in an epoch; a data set smaller than a batch makes one short step."""
    return max(1, num_samples // batch_size)


def global_batch(order: NDArray[np.int64], step: int, batch_size: int) -> NDArray[np.int64]:
    """The samples of a step, over all ranks."""
    return order[step * batch_size : (step + 1) * batch_size]


def rank_slice(batch: NDArray[np.int64], rank: int, world_size: int) -> NDArray[np.int64]:
    """The part of a global batch that one rank takes; the parts together are the batch."""
    return batch[rank::world_size]


@dataclass(frozen=True)
class Shards:
    """Where the samples of a remote cache lie, which is read a window of shards after another."""

    shard_of_sample: NDArray[np.int64]  # [N] the shard of each sample
    num_shards: int
    window_shards: int  # shards a window


@dataclass(frozen=True)
class Windows:
    """The windows of one epoch."""

    shard_of_sample: NDArray[np.int64]  # [N] the shard of each sample
    window_of_shard: NDArray[np.int64]  # [S] the window of each shard

    def ahead(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """The shards to hold while these samples are read, in the order of their windows, int64.

        They are those of two windows, the one that the first sample lies in and the next; those of more where the
        samples themselves lie in more.
        """
        windows: NDArray[np.int64] = self.window_of_shard[self.shard_of_sample[samples]]
        if not len(windows):
            return windows
        first, last = windows.min(), max(windows.max(), windows.min() + 1)
        shards: NDArray[np.int64] = np.argsort(self.window_of_shard, kind="stable")
        begin, end = np.searchsorted(self.window_of_shard[shards], [first, last + 1])
        ahead: NDArray[np.int64] = shards[begin:end]
        return ahead


@dataclass(frozen=True)
class BatchOrder:
    """What each batch of one rank is made of, epoch by epoch; it holds no state.

    Training (`shuffle`): full global batches, every rank the same number of steps. Evaluation: every sample once over
    all ranks, in order, the last batch short; a rank may run out earlier than another.

    Given `shards`, training goes through their windows in the order of `window_order`. Evaluation needs no other
    order: samples that come in order touch the shards in order.
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
            return Windows(self.shards.shard_of_sample, shard_windows(num_shards, window_shards, self.seed, epoch))
        return Windows(self.shards.shard_of_sample, np.arange(num_shards) // window_shards)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yields (samples [B], the view of each [B]) step by step, from `first_step` on."""
        if self.view is None:
            views = view_choice(self.num_samples, self.num_views, self.seed, epoch)
        else:
            views = np.full(self.num_samples, self.view)
        windows = self.windows(epoch)
        if self.shuffle:
            batch_size = self.batch_size
            if windows is None:
                samples = epoch_order(self.num_samples, self.seed, epoch)
            else:
                samples = window_order(windows.window_of_shard[windows.shard_of_sample], self.seed, epoch)
        else:
            samples = np.arange(self.rank, self.num_samples, self.world_size)
            batch_size = self.batch_size // self.world_size
        for step in range(first_step, self.steps_per_epoch):
            mine = global_batch(samples, step, batch_size)
            if self.shuffle:
                mine = rank_slice(mine, self.rank, self.world_size)
            yield mine, views[mine]
