"""Which sample comes when, and which of its views: pure functions of (seed, epoch, step) (promises T1 and T2)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Streams of random numbers that must not be one another's copies.
_ORDER_STREAM = 1
_VIEW_STREAM = 2


def epoch_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of range(num_samples), int64 [N]."""
    return np.random.default_rng([_ORDER_STREAM, seed, epoch]).permutation(num_samples)


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
class BatchOrder:
    """What each batch of one rank is made of, epoch by epoch; it holds no state.

    Training (`shuffle`): full global batches, every rank the same number of steps. Evaluation: every sample once over
    all ranks, in order, the last batch short; a rank may run out earlier than another.
    """

    num_samples: int
    num_views: int
    batch_size: int  # over all ranks
    seed: int
    rank: int
    world_size: int
    shuffle: bool
    view: int | None  # of every sample; None: the one that `view_choice` gives it

    @property
    def steps_per_epoch(self) -> int:
        """The same on every rank when training; this rank's own count at evaluation."""
        if self.shuffle:
            return steps_per_epoch(self.num_samples, self.batch_size)
        mine = len(range(self.rank, self.num_samples, self.world_size))
        return -(-mine // (self.batch_size // self.world_size))

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yields (samples [B], the view of each [B]) step by step, from `first_step` on."""
        if self.view is None:
            views = view_choice(self.num_samples, self.num_views, self.seed, epoch)
        else:
            views = np.full(self.num_samples, self.view)
        if self.shuffle:
            samples, batch_size = epoch_order(self.num_samples, self.seed, epoch), self.batch_size
        else:
            samples = np.arange(self.rank, self.num_samples, self.world_size)
            batch_size = self.batch_size // self.world_size
        for step in range(first_step, self.steps_per_epoch):
            mine = global_batch(samples, step, batch_size)
            if self.shuffle:
                mine = rank_slice(mine, self.rank, self.world_size)
            yield mine, views[mine]
