"""A split that is held: what of it, where, and once for all processes of a machine."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ci2p_cache import resident
from ci2p_cache.cache import Cache, open_cache
from ci2p_cache.errors import Ci2pError, InputError, WorkError
from ci2p_cache.loader import BatchLoader
from ci2p_cache.neighbours import Neighbours
from ci2p_cache.reader import ViewReader
from ci2p_cache.resident import Held, hold, load_resident

CPU, CARD = torch.device("cpu"), torch.device("cuda", 1)
GIB = 1 << 30


@pytest.fixture(scope="module")
def split(zarr_cache: Path) -> Cache:
    return open_cache(zarr_cache, "train")


def reader_of(split: Cache) -> ViewReader:
    return ViewReader(split.split_dir, split.manifest)


def together(count: int, work: Callable[[Neighbours], Any]) -> list[Any]:
    """What each of several threads comes to, or raises, as neighbours that speak to each other."""
    said: list[Any] = [None] * count
    barrier = threading.Barrier(count, timeout=60)

    def exchange_of(index: int) -> Callable[[Any], list[Any]]:
        def exchange(found: Any) -> list[Any]:
            said[index] = found
            barrier.wait()
            heard = list(said)
            barrier.wait()
            return heard

        return exchange

    def one(index: int) -> Any:
        try:
            return work(Neighbours(index, count, exchange_of(index)))
        except Ci2pError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_views_that_nobody_reads_are_not_held(zarr_cache: Path, split: Cache) -> None:
    for each, shuffle, view, num_views in ((split, True, None, 2), (split, True, 1, 1), (split, False, None, 1)):
        held, streamed = (
            BatchLoader(each, batch_size=4, seed=3, shuffle=shuffle, view=view, resident=how)  # type: ignore[arg-type]
            for how in ("cpu", "off")
        )
        assert held._resident is not None and len(held._resident.values) == num_views * split.manifest.num_items
        for ours, theirs in zip(held.epoch(1), streamed.epoch(1), strict=True):
            assert torch.equal(ours.latents, theirs.latents)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memory without a name is Linux's")
def test_neighbours_hold_it_once(split: Cache, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ci2p")
    whole = load_resident(split, reader_of(split), CPU)
    held = together(3, lambda us: hold(split, reader_of(split), "cpu", CPU, neighbours=us))
    assert all(torch.equal(each.values, whole) for each in held)
    held[0].values[5] = 77
    assert bool((held[2].values[5] == 77).all())
    assert caplog.text.count("once for 3 processes") == 1


def test_what_one_of_them_meets_is_said_by_all(split: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(self: ViewReader, **given: Any) -> Any:
        if given["share"][0] == 1:
            raise WorkError("shard 3 is damaged")
        yield np.array([0]), np.zeros((1, 2, *split.spec.latent_shape), np.uint8)

    monkeypatch.setattr(ViewReader, "read_shards", damaged)
    errors = together(2, lambda us: hold(split, reader_of(split), "cpu", CPU, neighbours=us))
    assert [str(error) for error in errors] == 2 * ["shard 3 is damaged"]


def test_where_nothing_can_be_shared_each_has_its_own(
    split: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If there is room for as many; "auto" reads it as it goes else, and what was asked for is refused."""
    caplog.set_level("INFO", "ci2p")
    monkeypatch.setattr(resident, "shared_memory", lambda num_bytes, neighbours: None)
    held = together(2, lambda us: hold(split, reader_of(split), "auto", CPU, neighbours=us))
    assert torch.equal(held[0].values, held[1].values) and "once for" not in caplog.text
    held[0].values[0] = 99
    assert not torch.equal(held[0].values, held[1].values)
    monkeypatch.setattr(resident, "resident_limit_bytes", lambda is_shared=False: GIB if is_shared else 1000)
    assert together(2, lambda us: hold(split, reader_of(split), "auto", CPU, neighbours=us)) == [None, None]
    monkeypatch.setattr(resident, "resident_limit_bytes", lambda is_shared=False: 1000)
    assert together(2, lambda us: hold(split, reader_of(split), "auto", CPU, neighbours=us)) == [None, None]
    assert caplog.text.count("is not held: its 0.00 GiB leave too little free") == 2
    monkeypatch.setattr(resident, "resident_limit_bytes", lambda is_shared=False: GIB if is_shared else 1000)
    for error in together(2, lambda us: hold(split, reader_of(split), "cpu", CPU, neighbours=us)):
        assert isinstance(error, InputError) and "a process, which cannot share it here" in str(error)


@pytest.mark.parametrize(
    ("how", "free", "in_memory", "where"),
    [
        ("auto", 23 * GIB, True, CARD),
        ("auto", 12 * GIB, True, CPU),  # it would fit, and leave less than half of the card
        ("auto", 12 * GIB, False, None),
        ("cuda", 12 * GIB, False, CARD),
        ("cpu", 23 * GIB, True, CPU),
        ("off", 23 * GIB, True, None),
    ],
)
def test_a_card_of_24_gib(
    split: Cache, monkeypatch: pytest.MonkeyPatch, how: Any, free: int, in_memory: bool, where: torch.device | None
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 24 * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    limit = GIB if in_memory else 1000
    monkeypatch.setattr(resident, "resident_limit_bytes", lambda is_shared=False: limit)
    loaded = []

    def load(cache: Cache, reader: ViewReader, device: torch.device, *, view: int | None) -> torch.Tensor:
        loaded.append(device)
        return torch.zeros(1)

    monkeypatch.setattr(resident, "load_resident", load)
    held = hold(split, reader_of(split), how, CARD)
    assert loaded == ([] if where is None else [where])
    assert (held is None) == (where is None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (6 * GIB, 24 * GIB))
    with pytest.raises(InputError, match=r"cuda needs 0.0 GiB, and of the GPU's 24.0 GiB 6.0 are free, 6.0 of"):
        hold(split, reader_of(split), "cuda", CARD)


def test_cards_of_one_machine_are_used_alike(split: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two is half taken by another program: both processes read from memory, and hold it once."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (GIB * (20, 2)[device.index], 24 * GIB))
    held: list[Held] = together(
        2, lambda us: hold(split, reader_of(split), "auto", torch.device("cuda", us.index), neighbours=us)
    )
    assert [each.values.device for each in held] == [CPU, CPU]
