"""Resident: a whole split held as stored values, on the GPU or in the machine's memory, and whether it fits there.

Legend: N samples, V views, C latent channels, H = W latent grid.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ci2p_cache.cache import Cache
from ci2p_cache.codecs import stored_dtype
from ci2p_cache.errors import Ci2pError, InputError
from ci2p_cache.free_memory import resident_limit_bytes
from ci2p_cache.neighbours import Neighbours, shared_memory
from ci2p_cache.reader import ViewReader

logger = logging.getLogger("ci2p")

Resident = Literal["auto", "cpu", "cuda", "off"]
# Of a GPU's memory, what is left to the model and its steps: where the user says so, and unasked.
_LEFT_IF_ASKED, _LEFT = 1 / 4, 1 / 2
_GIB = 1 << 30


@dataclass(frozen=True)
class Held:
    """The stored values of a split."""

    values: Tensor  # [num_items * V, C, H, W], on a GPU or in memory; V = 1 where one view alone is held
    num_views: int

    def read(self, positions: NDArray[np.int64], views: NDArray[np.int64]) -> Tensor:
        """[B, C, H, W] where they are held."""
        rows = positions if self.num_views == 1 else positions * self.num_views + views
        return self.values.index_select(0, torch.from_numpy(rows).to(self.values.device))


def hold(
    cache: Cache,
    reader: ViewReader,
    resident: Resident,
    device: torch.device,
    *,
    view: int | None = None,
    neighbours: Neighbours | None = None,
) -> Held | None:
    """Holds a split, or the one `view` of it that is read, where `resident` says; None where it is read as it goes.

    In memory all `neighbours`, who call this alike, hold it once. Raises InputError, on each of them, where it does not
    fit as it was asked for; WorkError for a shard that is damaged.
    """
    if resident == "off":
        return None
    num_views = len(cache.spec.views) if view is None else 1
    need = cache.manifest.num_items * num_views * _bytes_per_view(cache)
    is_on_card, is_in_memory = _agreed(lambda: _fits(resident, need, device, neighbours), neighbours)
    where = f"{cache.path}/{cache.split} is resident"
    not_held = f"{cache.path}/{cache.split} is not held: its {need / _GIB:.2f} GiB leave too little free"
    if is_on_card:
        whole = load_resident(cache, reader, device, view=view)
        _say(neighbours, f"{where} on {torch.cuda.get_device_name(device)}: {need / _GIB:.2f} GiB")
    elif not is_in_memory:
        _say(neighbours, not_held)
        return None
    elif neighbours is not None and (buffer := shared_memory(need, neighbours)) is not None:
        whole = torch.frombuffer(buffer, dtype=_dtype(cache)).view(-1, *cache.spec.latent_shape)
        _agreed(lambda: [_fill(whole, reader, view, neighbours)], neighbours)
        _say(neighbours, f"{where}: {need / _GIB:.2f} GiB, once for {neighbours.count} processes")
    else:
        if neighbours is not None and need > resident_limit_bytes():
            if resident == "cpu":
                raise too_large(need, resident_limit_bytes(), " a process, which cannot share it here")
            _say(neighbours, not_held)
            return None
        whole = load_resident(cache, reader, torch.device("cpu"), view=view)
        _say(neighbours, f"{where}: {need / _GIB:.2f} GiB")
    return Held(whole, num_views)


def load_resident(cache: Cache, reader: ViewReader, device: torch.device, *, view: int | None = None) -> Tensor:
    """A whole split on a device, stored values [num_items * V, C, H, W]: view v of position p is row p * V + v.

    With `view` that one alone, [num_items, C, H, W].
    """
    num_views = len(cache.spec.views) if view is None else 1
    shape = (cache.manifest.num_items * num_views, *cache.spec.latent_shape)
    whole = torch.zeros(shape, dtype=_dtype(cache), device=device)
    _fill(whole, reader, view, None)
    return whole


def _fill(whole: Tensor, reader: ViewReader, view: int | None, neighbours: Neighbours | None) -> bool:
    """With the shards that are this process's share."""
    share = (0, 1) if neighbours is None else (neighbours.index, neighbours.count)
    for positions, values in reader.read_shards(view=view, share=share):
        num_views = values.shape[1]
        by_position = whole.view(-1, num_views, *whole.shape[1:])
        by_position[torch.from_numpy(positions).to(whole.device)] = torch.from_numpy(values).to(whole.device)
    return True


def _fits(resident: Resident, need: int, device: torch.device, neighbours: Neighbours | None) -> list[bool]:
    """Whether it is to be held on the card, and whether else in memory. Raises InputError where it was asked for and
    does not fit."""
    if resident == "cuda" and device.type != "cuda":
        raise InputError(f"--resident cuda needs a CUDA device, and --device is {device.type}")
    is_on_card = False
    if resident in ("auto", "cuda") and device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        is_on_card = need <= free - total * (_LEFT if resident == "auto" else _LEFT_IF_ASKED)
        if resident == "cuda" and not is_on_card:
            raise InputError(
                f"--resident cuda needs {need / _GIB:.1f} GiB, and of the GPU's {total / _GIB:.1f} GiB "
                f"{free / _GIB:.1f} are free, {total * _LEFT_IF_ASKED / _GIB:.1f} of them for the model and its steps; "
                "use --resident cpu"
            )
    allowed = resident_limit_bytes(is_shared=neighbours is not None)
    if resident == "cpu" and need > allowed:
        raise too_large(need, allowed, "" if neighbours is None else " for all processes together")
    return [is_on_card, need <= allowed]


def too_large(need: int, allowed: float, of_whom: str) -> InputError:
    """That `need` bytes `of_whom` cannot be held in memory, as --resident cpu asks."""
    return InputError(
        f"--resident cpu needs {need / _GIB:.1f} GiB{of_whom}, and half of the free memory is "
        f"{allowed / _GIB:.1f} GiB; use --resident off"
    )


def _agreed(decide: Callable[[], list[bool]], neighbours: Neighbours | None) -> list[bool]:
    """What holds for all neighbours. Raises on each what `decide` raises on any."""
    if neighbours is None:
        return decide()
    mine: list[bool] | Ci2pError
    try:
        mine = decide()
    except Ci2pError as error:
        mine = error
    found = neighbours.exchange(mine)
    for each in [mine, *found]:
        if isinstance(each, Ci2pError):
            raise each
    return [all(answers) for answers in zip(*found, strict=True)]


def _say(neighbours: Neighbours | None, line: str) -> None:
    if neighbours is None or neighbours.index == 0:
        logger.info("%s", line)


def _dtype(cache: Cache) -> torch.dtype:
    return torch.float16 if cache.spec.store == "float16" else torch.uint8


def _bytes_per_view(cache: Cache) -> int:
    return int(np.prod(cache.spec.latent_shape)) * stored_dtype(cache.spec.store).itemsize
