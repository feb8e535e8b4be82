"""Shards that a process cannot all map: the first one makes way, or views are read by themselves."""

from pathlib import Path

import numpy as np
import pytest

from ci2p_cache import reader as reader_module
from ci2p_cache.cache import Cache, open_cache
from ci2p_cache.errors import WorkError
from ci2p_cache.local_shards import MappedShards, most_mapped
from ci2p_cache.reader import ViewReader
from tests.conftest import encode_folder
from tests.test_damages import flip, zero


def whole(split: Cache) -> np.ndarray:
    reader = ViewReader(split.split_dir, split.manifest)
    rng = np.random.default_rng(0)
    samples = rng.permutation(np.repeat(np.arange(split.num_samples), 2))
    views = np.argsort(np.argsort(samples, kind="stable"), kind="stable") % 2
    return reader.read_latents(split.positions_of(samples), views)


@pytest.mark.parametrize("store", ["int", "rans", "float16"])
@pytest.mark.parametrize("format", ["zarr", "webdataset"])
def test_views_are_the_same_however_few_shards_are_mapped(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, store: str
) -> None:
    step = None if store == "float16" else 0.05
    split = open_cache(encode_folder(image_folder, tmp_path / "cache", format=format, store=store, step=step), "train")
    expected = whole(split)
    monkeypatch.setattr(reader_module, "most_mapped", lambda: 2)
    assert np.array_equal(whole(split), expected)
    reader = ViewReader(split.split_dir, split.manifest)
    assert (reader._single is not None) == (format == "zarr" and store != "rans")
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    whole(split)
    assert len(list(Path("/proc/self/fd").iterdir())) <= open_files + 3


def test_the_first_shard_makes_way() -> None:
    loaded: list[int] = []
    shards = MappedShards(lambda number: loaded.append(number) or number, 2)  # type: ignore[func-returns-value, arg-type, return-value]
    assert [shards.get(number) for number in (1, 2, 1, 3, 2, 1)] == [1, 2, 1, 3, 2, 1]  # type: ignore[comparison-overlap]
    assert loaded == [1, 2, 3, 1]
    assert 1 <= most_mapped() <= 1 << 14


def test_c6_a_damaged_view_is_found_when_it_is_read_by_itself(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "most_mapped", lambda: 2)
    cache = encode_folder(image_folder, tmp_path / "cache", splits=["train"])
    split = open_cache(cache, "train")
    files = [split.manifest.shards.file(number) for number in range(6)]
    sound, rng, refused = whole(split), np.random.default_rng(3), 0
    for number in range(40):
        path = Path(split.split_dir) / files[number % 6]
        data = path.read_bytes()
        (flip, zero)[number % 2](Path(split.split_dir), files[number % 6], rng)
        try:
            assert np.array_equal(whole(split), sound)
        except WorkError as error:
            assert "\n" not in str(error) and "ci2p verify" in str(error)
            refused += 1
        path.write_bytes(data)
    assert refused >= 30  # the checksum of an index, and entries that no image has, are not read
    first, second = (Path(split.split_dir) / file for file in files[:2])
    if first.stat().st_size == second.stat().st_size:
        first.write_bytes(second.read_bytes())
    else:
        first.write_bytes(b"x" * first.stat().st_size)
    with pytest.raises(WorkError, match="the file of another shard"):
        whole(split)
    first.unlink()
    with pytest.raises(WorkError, match=r"c/0/0/0/0/0 cannot be read \(No such file"):
        whole(split)
