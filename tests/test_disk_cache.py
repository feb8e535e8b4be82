"""A remote cache kept on a local disk: one fetch for all processes, a bound that holds, kills that do no harm."""

import contextlib
import fcntl
import multiprocessing
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ci2p_cache import order
from ci2p_cache.cache import Cache, open_cache
from ci2p_cache.disk_cache import DiskCache, LocalDisk, local_disk
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.loader import BatchLoader
from ci2p_cache.manifest import read_manifest
from ci2p_cache.seals import seal_of
from ci2p_cache.traffic import traffic
from tests.conftest import encode_folder, upload_cache
from tests.fault_server import FaultServer, serve_faults
from tests.reading_process import read_files

SPLIT = "0123456789abcdef"


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*/*") if len(path.name) == 64]


def kept_bytes(folder: Path) -> int:
    """Of what is kept or being put down, while nothing is added or makes way."""
    total = 0
    with (folder / "used").open("rb") as used:
        fcntl.flock(used, fcntl.LOCK_EX)
        for path in folder.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):  # it takes its name
                total += path.stat().st_size
    return total


@pytest.fixture
def server(zarr_cache: Path) -> Iterator[FaultServer]:
    with serve_faults(zarr_cache) as server:
        yield server


def test_processes_fetch_every_file_once_though_one_is_killed(
    server: FaultServer, zarr_cache: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    seals = dict(read_manifest(zarr_cache / "train").seals or {})
    assert seals
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()

    def start(seed: int, kill: bool) -> Any:
        arguments = (f"{server.url}/train", seals, str(folder), seed, kill, results)
        process = context.Process(target=read_files, args=arguments, daemon=True)
        process.start()
        return process

    victim = start(0, kill=True)
    victim.join(60)
    assert victim.exitcode == -signal.SIGKILL and not kept(folder)
    assert list(folder.glob("*/.*.tmp"))
    server.requests.clear()
    processes = [start(seed, kill=False) for seed in range(2)]
    expected = {name: (zarr_cache / "train" / name).read_bytes() for name in seals}
    assert [results.get() for _ in processes] == [expected] * 2
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert set(server.requests.values()) == {1}
    assert len(kept(folder)) == len(server.requests) == len({seal.sha256 for seal in seals.values()})
    assert not list(folder.glob("*/.*.tmp"))  # swept


@pytest.fixture(scope="module")
def many_shards(cache_format: str, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image a shard: 21 of train. Not to be changed."""
    return encode_folder(image_folder, tmp_path_factory.mktemp("many") / "cache", format=cache_format, shard_size=1)


def epochs(split: Cache, num_epochs: int = 3, **settings: Any) -> list[tuple[list[int], torch.Tensor]]:
    loader = BatchLoader(split, batch_size=4, seed=3, resident="off", **settings)
    return [(batch.positions.tolist(), batch.latents) for epoch in range(num_epochs) for batch in loader.epoch(epoch)]


@pytest.mark.parametrize("share", [2.0, 0.7, 0.001])
def test_any_bound_holds_and_gives_the_same_batches(
    many_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """T1 to T3 know nothing of what is kept: of everything, of a part, of nothing at all."""
    monkeypatch.setattr(order, "_WINDOW_IMAGES", 3)
    url = upload_cache(many_shards, "bounded")
    whole = sum(file.stat().st_size for file in (many_shards / "train").rglob("*") if file.is_file())
    most = int(share * whole)
    largest = []

    class Watched(DiskCache):
        def _keep(self, path: Path, data: memoryview) -> memoryview:
            mapped = super()._keep(path, data)
            largest.append(kept_bytes(tmp_path))
            return mapped

    monkeypatch.setattr("ci2p_cache.reader.DiskCache", Watched)
    expected = epochs(open_cache(url, "train"))
    begin = traffic()
    found = epochs(open_cache(url, "train", LocalDisk(str(tmp_path), most)))
    fetched = (traffic() - begin).num_bytes
    assert [positions for positions, _ in found] == [positions for positions, _ in expected]
    assert all(torch.equal(ours, theirs) for (_, ours), (_, theirs) in zip(found, expected, strict=True))
    assert max(largest) <= most
    shards = sum(record.bytes for record in open_cache(url, "train").manifest.shards)
    if share > 1:
        assert shards <= fetched <= whole  # once for all epochs
    elif share == 0.7:  # what was kept is not thrown out just before it is needed again, as the oldest would be
        assert fetched < 2.2 * whole
    else:
        assert fetched >= 3 * shards - 6 * shards // 21 and not kept(tmp_path)


def test_what_is_read_stays_and_what_nobody_reads_goes_first(tmp_path: Path) -> None:
    disk = LocalDisk(str(tmp_path), 1050)
    files = [bytes([number]) * 200 for number in range(12)]

    def get(cache: DiskCache, number: int) -> memoryview:
        return cache.get(seal_of(files[number]), f"memory://x/{number}", lambda: memoryview(files[number]))

    def names() -> set[int]:
        return {path.read_bytes()[0] for path in kept(tmp_path)}

    old, ours = DiskCache(disk, SPLIT), DiskCache(disk, SPLIT[::-1])
    for number in (0, 1):
        get(old, number)
        time.sleep(0.01)
    held = [get(ours, 2), get(ours, 3)]
    get(ours, 4)
    assert names() == {0, 1, 2, 3, 4}
    del old  # a run that has ended: of its files the one used longest ago makes way
    get(ours, 5)
    assert names() == {1, 2, 3, 4, 5}
    get(ours, 6)
    get(ours, 7)  # now the one of our own that was used last
    assert names() == {2, 3, 4, 5, 7}
    held += [get(ours, number) for number in (4, 5, 8)]
    assert names() == {2, 3, 4, 5, 8}
    assert get(ours, 9) == files[9] and names() == {2, 3, 4, 5, 8}  # all are in use
    assert [bytes(data) for data in held] == [files[number] for number in (2, 3, 4, 5, 8)]
    with pytest.raises(WorkError, match=r"memory://x/1 has changed since it was written"):
        ours.get(seal_of(files[10]), "memory://x/1", lambda: memoryview(files[11]))


def test_what_the_disk_has_damaged_is_fetched_anew(cache: Path, tmp_path: Path) -> None:
    url = upload_cache(cache, "damaged")
    split = open_cache(url, "train", LocalDisk(str(tmp_path), 10**9))
    expected = epochs(split)
    files = kept(tmp_path)
    for number, path in enumerate(files):
        data = bytearray(path.read_bytes())
        if number % 2:
            data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        path.write_bytes(data if number % 2 else data[:-1])
    found = epochs(split)
    assert all(torch.equal(ours, theirs) for (_, ours), (_, theirs) in zip(found, expected, strict=True))


def test_what_cannot_be_a_local_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, gigabytes, message in (
        (None, 5.0, "--cache-gb 5 needs --cache-dir"),
        (tmp_path, 0.0, "--cache-gb 0: give a number of gigabytes above 0"),
        (tmp_path, float("nan"), "--cache-gb nan: give"),
        ("s3://bucket/x", None, "--cache-dir s3://bucket/x is a URL"),
    ):
        with pytest.raises(InputError, match=message):
            local_disk(folder, gigabytes)
    with pytest.raises(InputError, match=r"--cache-dir .*file: .*; give a folder on a disk of this machine"):
        DiskCache(LocalDisk(str(tmp_path / "file"), 10), SPLIT)
