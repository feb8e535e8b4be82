"""Decoding processes that are lost, that find no room, and that fail: one line that says what to do, and no waiting."""

import os
import shutil
import signal
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ci2p_cache.errors import WorkError
from pipeline.encode import workers as workers_module
from pipeline.encode.datasets.split import UNKNOWN_STAMP, Stamp
from pipeline.encode.decoding import decode_batches
from pipeline.encode.preprocess import Preprocessing
from pipeline.encode.workers import compute_ahead, in_shared_memory
from tests.test_preprocess import SMALL, encoded, photograph

Usage = namedtuple("Usage", "total used free")


@dataclass(frozen=True)
class Items(Dataset[Tensor]):
    """Number -> a tensor of it; item 2 is the one where something happens."""

    event: str = ""

    def __getitem__(self, number: int) -> Tensor:
        if number == 2:
            match self.event:
                case "killed" | "SIGBUS" | "SIGSEGV":
                    os.kill(os.getpid(), {"killed": signal.SIGKILL}.get(self.event, getattr(signal, self.event, None)))
                case "exit":
                    os._exit(3)
                case "memory":
                    raise MemoryError
                case "user":
                    raise WorkError("x.jpg is gone; bring it back")
                case "ours":
                    raise RuntimeError("shared memory of our own mistake")
                case "shared":
                    torch.Tensor.share_memory_ = _no_room  # type: ignore[method-assign]
        return in_shared_memory(torch.full((3,), number))


def _no_room(tensor: Tensor) -> Tensor:
    raise RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)")


def computed(items: Items, workers: int, count: int = 5, ahead: int = 2, item_bytes: int = 12) -> list[int]:
    ahead_of = compute_ahead(
        items, count, workers=workers, ahead=ahead, item_bytes=item_bytes, pin=False, name=lambda n: f"item {n}"
    )
    return [int(item[0]) for item in ahead_of]


@pytest.mark.parametrize("workers", [0, 2])
def test_items_come_in_order(workers: int) -> None:
    assert computed(Items(), workers) == [0, 1, 2, 3, 4]
    assert computed(Items(), workers, count=0) == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("event", "says"),
    [
        ("killed", r"a decoding process was killed, as the system does when memory runs out, at item \d .*--workers"),
        ("SIGBUS", r"/dev/shm \(\d+ MB free\) is too small .*--shm-size 2g\), or give --workers 0"),
        ("SIGSEGV", r"a decoding process ended by SIGSEGV, at item \d or soon after it; .* --workers 0"),
        ("exit", r"a decoding process ended with status 3, at item \d or soon after it; .* --workers 0"),
        ("memory", r"not enough memory for a batch of images; give a smaller --batch-size, or fewer --workers"),
        ("user", r"x\.jpg is gone; bring it back"),
        ("shared", r"/dev/shm \(\d+ MB free\) is too small .*--shm-size 2g\), or give --workers 0"),
    ],
)
def test_what_befalls_a_worker_is_said_in_one_line(event: str, says: str) -> None:
    with pytest.raises(WorkError, match=f"^{says}") as caught:
        computed(Items(event), workers=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(12, "Cannot allocate memory"), "Cannot allocate memory"),
        (RuntimeError("can't start new thread"), "can't"),
    ],
)
def test_processes_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch, error: Exception, why: str) -> None:
    def fails(loader: Any) -> None:
        raise error

    monkeypatch.setattr(workers_module.DataLoader, "__iter__", fails)
    with pytest.raises(WorkError, match=f"^2 decoding processes could not be started: {why}.*; give fewer --workers$"):
        computed(Items(), workers=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_our_own_mistakes_come_with_their_traceback(workers: int) -> None:
    with pytest.raises(RuntimeError, match="of our own mistake"):
        computed(Items("ours"), workers)


@pytest.mark.parametrize(("event", "says"), [("memory", "not enough memory"), ("user", "^x.jpg is gone; bring it")])
def test_without_workers_the_same_is_said(event: str, says: str) -> None:
    with pytest.raises(WorkError, match=says):
        computed(Items(event), workers=0)


def test_a_lost_worker_is_not_reported_in_the_midst_of_other_work() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    computed(Items(), workers=1)
    assert signal.getsignal(signal.SIGCHLD) == before


@pytest.mark.parametrize(
    ("free", "planned"),
    [(10_000_000, (4, 4)), (20_000, (4, 3)), (8_000, (4, 1)), (6_500, (3, 1)), (4_000, (1, 1)), (1_000, (0, 1))],
)
def test_little_shared_memory_makes_fewer_ahead_then_fewer_workers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, free: int, planned: tuple[int, int]
) -> None:
    made: list[tuple[int, int | None]] = []
    loader = workers_module.DataLoader

    def noted(*args: Any, num_workers: int, prefetch_factor: int | None, **options: Any) -> Any:
        made.append((num_workers, prefetch_factor or 1))
        return loader(*args, num_workers=num_workers, prefetch_factor=prefetch_factor, **options)

    monkeypatch.setattr(workers_module, "DataLoader", noted)
    monkeypatch.setattr(workers_module, "SHARED_MEMORY", Path("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free, 0, free))
    assert computed(Items(), workers=4, ahead=4, item_bytes=1_000) == [0, 1, 2, 3, 4]
    assert made == [planned]
    assert ("/ has 0 MB for it" in caplog.text) == (free < 10_000_000)


@dataclass(frozen=True)
class OneBad:
    """An ImageSplit of a good image and of one that cannot be read."""

    good: bytes
    error: BaseException
    keys = ("a/bad", "a/good")
    classes = ("a",)
    labels = np.zeros(2, np.int64)

    def read_bytes(self, index: int) -> bytes:
        if index == 0:
            raise self.error
        return self.good

    def stamp(self, index: int) -> Stamp:
        return UNKNOWN_STAMP

    @property
    def left_out(self) -> tuple[()]:
        return ()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (IsADirectoryError(21, "Is a directory", "a"), "cannot be read: Is a directory"),
        (OSError("of no number"), "cannot be read: OSError"),
        (MemoryError(), "not enough memory to read it"),
    ],
)
def test_an_item_that_cannot_be_read_fails_alone(error: BaseException, reason: str) -> None:
    split = OneBad(encoded(photograph(40, 30)), error)
    (batch,) = decode_batches(split, SMALL, [[0, 1]], workers=0, pin=False)
    assert batch.indices == [1] and batch.pixels.shape == (1, 1, 3, 32, 32)
    assert [(failure.key, failure.reason) for failure in batch.failures] == [("a/bad", reason)]


def test_an_image_that_is_too_large_for_the_memory_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*args: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("pipeline.encode.preprocess.render", no_memory)
    data = encoded(photograph(40, 30))
    (batch,) = decode_batches(OneBad(data, OSError()), Preprocessing(32, 36), [[1]], workers=0, pin=False)
    assert [failure.reason for failure in batch.failures] == ["not enough memory to decode 40 x 30 pixels"]
