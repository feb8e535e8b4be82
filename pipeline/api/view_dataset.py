"""A split of a cache as torch's map-style Dataset: for anyone's DataLoader, sampler or trainer.

Legend: N samples, V views, B batch, C latent channels, H = W latent grid.
"""

import contextlib
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ci2p_cache.cache import Cache
from ci2p_cache.errors import InputError
from ci2p_cache.loader import to_latents
from ci2p_cache.order import view_choice
from ci2p_cache.reader import ViewReader

Sample = tuple[Tensor, int]
RANDOM = "random"
_FAR = 2**62  # further than any sample, and an int64


class OutOfRange(InputError, IndexError):
    """A sample that is not there: an IndexError too, by which Python's sequences end."""


class ViewDataset(Dataset[Sample]):
    """Sample i is (latent float32 [C, H, W], label). Picklable under fork and spawn; every process reads for itself.

    With the view "random", each shows the view that (seed, epoch) give it, another one every epoch: as `ci2p train` has
    it. `set_epoch` reaches worker processes that are running already, for the epoch lies in memory that they share.
    """

    def __init__(self, cache: Cache, view: str | int, seed: int):
        """Raises InputError for a view that the cache does not hold."""
        self._cache = cache
        self._view = None if view == RANDOM else view_number(cache, view)
        self._seed = seed
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._open: tuple[int, ViewReader] | None = None

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the labels."""
        return list(self._cache.classes)

    @property
    def labels(self) -> NDArray[np.int64]:
        """[N] in [0, num_classes)."""
        return self._cache.labels

    @cached_property
    def keys(self) -> Sequence[str]:
        """The name of each sample's image, [N], as the data set had it."""
        return self._cache.read_keys()

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's views are shown, from 0 on; 0 until this is called."""
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise InputError(f"set_epoch({epoch!r}): give the number of an epoch, from 0 on")
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self._cache.num_samples

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Several at once: torch's DataLoader asks for a batch by this name."""
        samples = sample_numbers(indices, len(self))
        if self._view is None:
            views = view_choice(samples, len(self._cache.spec.views), self._seed, self.epoch)
        else:
            views = np.full(len(samples), self._view)
        positions, reader = self._cache.positions_of(samples), self._reader()
        stored = torch.from_numpy(reader.read(positions, views))
        rows = positions * len(self._cache.spec.views) + views
        escaped = None if reader.escapes is None else reader.escapes.among(rows)
        latents = to_latents(stored, self._cache.spec, escaped)
        return list(zip(latents.unbind(), self._cache.labels_of(samples).tolist(), strict=True))

    def _reader(self) -> ViewReader:
        """This process's own: threads and connections do not come through a fork."""
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), ViewReader(self._cache.split_dir, self._cache.manifest, disk=self._cache.disk))
        return self._open[1]

    def __reduce__(self) -> tuple[Any, ...]:
        # By way of ci2p, which sees to it that a process that begins afresh finds this module and no other.
        import ci2p

        state = self.__dict__ | {"_open": None}
        return ci2p._restore, (type(self).__module__, type(self).__name__, state)


def view_number(cache: Cache, view: str | int) -> int:
    """The number of a view given by name or number. Raises InputError for one that the cache does not hold."""
    views = cache.spec.views
    if isinstance(view, str) and view in views:
        return views.index(view)
    if isinstance(view, int) and not isinstance(view, bool) and 0 <= view < len(views):
        return view
    raise InputError(
        f"view={view!r}: {cache.split_dir} holds {', '.join(views)} (0 to {len(views) - 1}); give one of them"
    )


def sample_numbers(indices: Sequence[int], num_samples: int) -> NDArray[np.int64]:
    """Indices as int64 [B], negative ones counted from the end. Raises InputError for what is no sample's number."""
    samples = np.array([_as_integer(index) for index in indices], dtype=np.int64)
    samples = np.where(samples < 0, samples + num_samples, samples)
    outside = (samples < 0) | (samples >= num_samples)
    if outside.any():
        odd = indices[int(np.flatnonzero(outside)[0])]
        raise OutOfRange(f"sample {odd}: there are {num_samples}, 0 to {num_samples - 1}")
    return samples


def _as_integer(value: Any) -> int:
    is_scalar = not isinstance(value, bool | np.bool_) and not getattr(value, "ndim", 0)
    if is_scalar and hasattr(value, "__index__"):
        with contextlib.suppress(TypeError):  # a tensor of floats has the method too
            return max(-_FAR, min(int(value.__index__()), _FAR))
    raise InputError(f"sample {value!r:.80} is of type {type(value).__name__}; give an integer")
