"""A remote cache that is streamed: the batches that its order says, in bounded memory."""

import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from ci2p_cache import order, reader, remote
from ci2p_cache.cache import Cache, open_cache
from ci2p_cache.errors import InputError
from ci2p_cache.loader import BatchLoader
from ci2p_cache.reader import ViewReader
from ci2p_cache.shard_file import ShardFile
from tests.conftest import encode_folder, upload_cache

NUM_SHARDS = 6  # of `train`, four images each, the last one a single image


@pytest.fixture(params=["int", "rans"], scope="module")
def local(
    request: pytest.FixtureRequest, cache_format: str, image_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A cache in each format and store of integers. Not to be changed."""
    path = tmp_path_factory.mktemp("local") / "cache"
    return encode_folder(image_folder, path, format=cache_format, store=request.param)


@pytest.fixture
def url(local: Path) -> str:
    return upload_cache(local, "streamed")


@pytest.fixture
def two_shards_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "_WINDOW_IMAGES", 8)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was fetched."""
    counts: Counter[str] = Counter()

    def counted(url: str, num_bytes: int | None = None) -> memoryview:
        counts[url.partition("/train/")[2]] += 1
        return fetch(url, num_bytes)

    fetch = reader.fetch
    monkeypatch.setattr(reader, "fetch", counted)
    return counts


def shard_counts(fetched: Counter[str], split: Cache) -> list[int]:
    return [fetched[shard.file] for shard in split.manifest.shards]


@pytest.mark.usefixtures("two_shards_a_window")
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_hold_what_the_order_says(local: Path, url: str, workers: int) -> None:
    split = open_cache(url, "train")
    loader = BatchLoader(split, batch_size=4, seed=5, resident="off", workers=workers)
    there = ViewReader(str(local / "train"), split.manifest)
    for epoch in range(2):
        first_samples = np.searchsorted(split.positions // 4, np.arange(NUM_SHARDS + 1))
        windows = order.Windows(order.Shards(first_samples, 2), order.shard_windows(NUM_SHARDS, 2, 5, epoch))
        samples = windows.samples(np.arange(split.num_samples), 5, epoch)
        views = order.view_choice(np.arange(split.num_samples), 2, 5, epoch)
        batches = list(loader.epoch(epoch))
        assert len(batches) == 5
        for step, batch in enumerate(batches):
            mine = samples[4 * step : 4 * step + 4]
            assert np.array_equal(batch.latents.numpy(), there.read_latents(split.positions[mine], views[mine]))
            assert np.array_equal(batch.labels.numpy(), split.labels[mine])
        for first_step in range(6):
            rest = list(loader.epoch(epoch, first_step))
            assert len(rest) == 5 - first_step
            assert all(torch.equal(a.latents, b.latents) for a, b in zip(batches[first_step:], rest, strict=True))


@pytest.mark.usefixtures("two_shards_a_window")
def test_ranks_and_residency_make_no_difference_to_the_order(
    url: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By "auto" free memory decides what is resident, which differs between processes: it must not decide more."""
    split = open_cache(url, "train")

    def positions(**settings: object) -> list[list[int]]:
        loader = BatchLoader(split, batch_size=4, seed=2, **settings)  # type: ignore[arg-type]
        return [batch.positions.tolist() for batch in loader.epoch(1)]

    streamed = positions(resident="off")
    assert positions() == streamed
    ranks = [positions(resident="off", rank=rank, world_size=2) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*ranks, strict=True)] == [sorted(batch) for batch in streamed]
    # What is asked to be resident has the order of a local copy.
    loader = BatchLoader(open_cache(local, "train"), batch_size=4, seed=2, resident="off")
    assert positions(resident="cpu") == [batch.positions.tolist() for batch in loader.epoch(1)] != streamed
    # What does not fit is streamed.
    monkeypatch.setattr("ci2p_cache.resident.resident_limit_bytes", lambda is_shared=False: 1000.0)
    assert positions() == streamed
    with pytest.raises(InputError, match=r"--resident cpu needs .* use --resident off"):
        positions(resident="cpu")


@pytest.fixture(scope="module")
def many_shards(cache_format: str, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a cache in each format with an image a shard: 21 of train. Not to be changed."""
    path = tmp_path_factory.mktemp("many") / "cache"
    return upload_cache(encode_folder(image_folder, path, format=cache_format, shard_size=1), "many")


@pytest.mark.parametrize(("shuffle", "batch_size"), [(True, 3), (True, 1), (False, 2), (False, 3)])
def test_memory_is_bounded_and_every_shard_is_fetched_once_an_epoch(
    many_shards: str, fetched: Counter[str], monkeypatch: pytest.MonkeyPatch, shuffle: bool, batch_size: int
) -> None:
    monkeypatch.setattr(order, "_WINDOW_IMAGES", 3)
    loaded: list[weakref.ref[ShardFile]] = []
    held: list[int] = []
    alive: list[int] = []

    def load(self: ViewReader, number: int) -> ShardFile:
        shard = whole_load(self, number)
        loaded.append(weakref.ref(shard))
        alive.append(sum(reference() is not None for reference in loaded))
        assert self._remote is not None
        held.append(len(self._remote.held))
        return shard

    whole_load = ViewReader._load
    monkeypatch.setattr(ViewReader, "_load", load)
    split = open_cache(many_shards, "train")
    loader = BatchLoader(split, batch_size=batch_size, seed=1, shuffle=shuffle, resident="off")
    list(loader.epoch(0))
    assert shard_counts(fetched, split) == [1] * 21
    list(loader.epoch(1))
    # ... at most, for those of the last two windows may still be there when the next epoch begins.
    assert max(shard_counts(fetched, split)) == 2
    assert max(held) == 6
    # Each fetching thread may not yet have put down the shard that it fetched last.
    assert max(alive) <= 6 + remote._FETCH_THREADS


def test_a_cache_of_two_windows_is_fetched_once_for_all_epochs(
    url: str, fetched: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "_WINDOW_IMAGES", 12)
    split = open_cache(url, "train")
    loader = BatchLoader(split, batch_size=4, resident="off")
    for epoch in range(3):
        list(loader.epoch(epoch))
    assert shard_counts(fetched, split) == [1] * NUM_SHARDS


def test_resuming_fetches_no_earlier_window(url: str, fetched: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "_WINDOW_IMAGES", 4)
    split = open_cache(url, "train")
    list(BatchLoader(split, batch_size=1, seed=1, resident="off").epoch(0, first_step=split.num_samples - 1))
    last = order.shard_windows(NUM_SHARDS, 1, 1, 0) == NUM_SHARDS - 1
    assert shard_counts(fetched, split) == last.tolist()


def test_a_batch_may_span_more_than_two_windows(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "_WINDOW_IMAGES", 1)
    streamed = open_cache(upload_cache(local, "spanned"), "train")
    (batch,) = BatchLoader(streamed, batch_size=21, resident="off", workers=3).epoch(0)
    assert sorted(batch.positions.tolist()) == list(range(21))


@pytest.mark.usefixtures("two_shards_a_window")
def test_evaluation_streams_every_sample_once_in_order(local: Path, url: str) -> None:
    here, there = (open_cache(path, "val") for path in (local, url))
    for rank in range(2):
        loaders = [
            BatchLoader(split, batch_size=4, rank=rank, world_size=2, shuffle=False, resident="off")
            for split in (here, there)
        ]
        for a, b in zip(*(loader.epoch(0) for loader in loaders), strict=True):
            assert a.positions.tolist() == b.positions.tolist()
            assert torch.equal(a.latents, b.latents)
