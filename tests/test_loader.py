"""loader and reader: every path to a batch gives the same batch, and what cannot work says so."""

from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from ci2p_cache import order
from ci2p_cache.cache import open_cache
from ci2p_cache.codecs import dequantise
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.loader import BatchLoader, to_latents
from ci2p_cache.reader import ViewReader
from ci2p_cache.zarr_store import shard_file
from tests.conftest import encode_folder, files_of


def test_resident_and_streamed_batches_are_equal(cache: Path) -> None:
    split = open_cache(cache, "train")
    loaders = [
        BatchLoader(split, batch_size=4, seed=7, resident=resident, workers=workers)  # type: ignore[arg-type]
        for resident, workers in (("cpu", 1), ("off", 1), ("off", 3))
    ]
    for epoch in range(2):
        for batches in zip(*(loader.epoch(epoch) for loader in loaders), strict=True):
            for other in batches[1:]:
                assert torch.equal(batches[0].latents, other.latents)
                assert torch.equal(batches[0].labels, other.labels)


def test_a_batch_holds_what_the_order_says(cache: Path) -> None:
    split = open_cache(cache, "train")
    reader = ViewReader(split.split_dir, split.manifest)
    samples = order.epoch_samples(np.arange(split.num_samples), split.num_samples, 5, 3)
    views = order.view_choice(np.arange(split.num_samples), 2, 5, 3)
    batches = list(BatchLoader(split, batch_size=4, seed=5).epoch(3))
    assert len(batches) == 5
    for step, batch in enumerate(batches):
        mine = samples[4 * step : 4 * step + 4]
        stored = reader.read(split.positions[mine], views[mine])
        assert np.array_equal(batch.latents.numpy(), dequantise(stored, "int", 1.0))
        assert np.array_equal(batch.labels.numpy(), split.labels[mine])
        assert batch.latents.dtype == torch.float32 and batch.labels.dtype == torch.int64


def test_an_epoch_resumes_at_any_step(cache: Path) -> None:
    loader = BatchLoader(open_cache(cache, "train"), batch_size=4, seed=1)
    whole = [batch.latents for batch in loader.epoch(2)]
    for first_step in range(6):
        rest = [batch.latents for batch in loader.epoch(2, first_step)]
        assert len(rest) == 5 - first_step
        assert all(torch.equal(a, b) for a, b in zip(whole[first_step:], rest, strict=True))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_t2_ranks_share_every_global_batch(cache: Path, world_size: int) -> None:
    split = open_cache(cache, "train")
    alone = [set(batch.positions) for batch in BatchLoader(split, batch_size=4, seed=2).epoch(0)]
    ranks = [BatchLoader(split, batch_size=4, seed=2, rank=r, world_size=world_size) for r in range(world_size)]
    steps = list(zip(*(loader.epoch(0) for loader in ranks), strict=True))
    assert [set().union(*(batch.positions for batch in step)) for step in steps] == alone
    assert {loader.steps_per_epoch for loader in ranks} == {5}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_evaluation_sees_every_sample_once_plain(cache: Path, world_size: int) -> None:
    split = open_cache(cache, "val")
    seen: list[int] = []
    for rank in range(world_size):
        loader = BatchLoader(split, batch_size=4, rank=rank, world_size=world_size, shuffle=False)
        batches = list(loader.epoch(0))
        assert len(batches) == loader.steps_per_epoch
        seen += [position for batch in batches for position in batch.positions.tolist()]
        reader = ViewReader(split.split_dir, split.manifest)
        for batch in batches:
            plain = reader.read(batch.positions, np.zeros_like(batch.positions))
            assert np.array_equal(batch.latents.numpy(), dequantise(plain, "int", 1.0))
    assert sorted(seen) == split.positions.tolist()


def test_values_become_floating_point_as_the_codec_says() -> None:
    spec = type("Spec", (), {"store": "int", "step": 0.5})()
    codes = torch.arange(255, dtype=torch.uint8)
    expected = dequantise(codes.numpy(), "int", 0.5)
    assert np.array_equal(to_latents(codes, spec).numpy(), expected)
    escaped = np.array([1, 2]), np.array([-1000, 2**31 - 1], np.int32)
    escapes = torch.tensor([[4, 255], [255, 3]], dtype=torch.uint8)
    assert np.array_equal(to_latents(escapes, spec, escaped).numpy(), dequantise(escapes.numpy(), "int", 0.5, escaped))


def test_a_remote_cache_is_resident(cache: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name, data in files_of(cache).items():
        memory.pipe_file(f"/remote/{cache.name}/{name}", data)
    url = f"memory://remote/{cache.name}"
    remote, local = open_cache(url, "train"), open_cache(cache, "train")
    for a, b in zip(BatchLoader(remote, batch_size=4).epoch(0), BatchLoader(local, batch_size=4).epoch(0), strict=True):
        assert torch.equal(a.latents, b.latents)


def test_the_wrong_things_say_so(cache: Path, tmp_path: Path, image_folder: Path) -> None:
    with pytest.raises(InputError, match="does not exist; make it with `ci2p encode"):
        open_cache(tmp_path / "nowhere", "train")
    with pytest.raises(InputError, match="no ci2p cache with a split 'test'"):
        open_cache(cache, "test")
    with pytest.raises(InputError, match="--batch-size 4 does not divide by 3 processes"):
        BatchLoader(open_cache(cache, "train"), batch_size=4, world_size=3)
    with pytest.raises(InputError, match="--resident cuda needs a CUDA device"):
        BatchLoader(open_cache(cache, "train"), batch_size=4, resident="cuda")
    unfinished = encode_folder(image_folder, tmp_path / "unfinished")
    (unfinished / "train" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"not finished \(6 shards done\); run the same `ci2p encode` again"):
        open_cache(unfinished, "train")


def test_c6_a_truncated_or_missing_shard_is_found_on_opening(image_folder: Path, tmp_path: Path) -> None:
    for number, spoil in enumerate((lambda path: path.write_bytes(path.read_bytes()[:-1]), Path.unlink)):
        path = encode_folder(image_folder, tmp_path / str(number))
        spoil(path / "train" / shard_file(2))
        with pytest.raises(WorkError, match=r"c/2/0/0/0/0 (has|is missing).*`ci2p encode` again"):
            open_cache(path, "train")
        # ... and the way out that the message names works.
        encode_folder(image_folder, path)
        assert open_cache(path, "train").num_samples == 21
