"""rans: the archive store gives back the same values on any machine, in little more than their entropy."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ci2p_cache import codecs
from ci2p_cache.cache import open_cache
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.loader import BatchLoader
from ci2p_cache.rans import PRECISION_BITS, ShardCoder, code_shard, symbol_weights
from ci2p_cache.reader import ViewReader
from ci2p_cache.spec import latent_difference, refuse_mixture
from ci2p_cache.tar_store import images_of_records
from tests.conftest import encode_folder
from tests.test_stores import all_views


def coder_of(views: np.ndarray) -> ShardCoder:
    """For stored values [N, C, H, W]."""
    channels = views.transpose(1, 0, 2, 3).reshape(views.shape[1], -1)
    return ShardCoder(np.stack([np.bincount(channel, minlength=256) for channel in channels]).astype(np.int64))


def laplacian_views(num_views: int, scale: float) -> np.ndarray:
    """Stored values [N, 192, 16, 16]: channels of all widths up to `scale`, some of them silent, as an encoder's."""
    rng = np.random.default_rng(0)
    scales = np.maximum(0, np.linspace(-scale / 4, scale, 192))[:, None, None]
    return codecs.zigzag(np.rint(rng.laplace(0, 1, (num_views, 192, 16, 16)) * scales).astype(np.int32))


@given(arrays(np.uint8, (4, 5, 3, 2), elements=st.sampled_from([0, 0, 0, 1, 2, 7, 254, 255])))
def test_a_buffer_gives_back_the_values(views: np.ndarray) -> None:
    coder = coder_of(views)
    read = ShardCoder.from_tables(memoryview(coder.tables() + b"whatever follows"), 5)
    for view in views:
        buffer, out = coder.pack(view), np.empty_like(view)
        read.unpack(memoryview(buffer), out)
        assert np.array_equal(out, view)
        assert read.pack(view) == buffer


def decode_by_integers(buffer: bytes, counts: np.ndarray, num_values: int) -> list[list[int]]:
    """The format as its docstring has it, in Python's integers: counts [C, 256] -> values [C][num_values]."""
    words = [int.from_bytes(buffer[4 * n : 4 * n + 4], "little") for n in range(1, 1 + len(buffer) // 4 - 1)]
    assert int.from_bytes(buffer[:4], "little") == len(words)
    state = 0
    values: list[list[int]] = []
    for channel in counts:
        if np.count_nonzero(channel) < 2:
            values.append([int(channel.argmax())] * num_values)
            continue
        frequencies = [int(weight) + 1 for weight in symbol_weights(channel)]
        assert sum(frequencies) == 2**PRECISION_BITS
        values.append([])
        for _ in range(num_values):
            while state < 2**32 and words:
                state = (state << 32) | words.pop()
            rest, begin, value = state % 2**PRECISION_BITS, 0, 0
            while rest >= begin + frequencies[value]:
                begin += frequencies[value]
                value += 1
            state = (state >> PRECISION_BITS) * frequencies[value] + rest - begin
            values[-1].append(value)
    assert state == 0 and not words
    return values


def test_integers_alone_decode_a_buffer() -> None:
    """Bit-exact everywhere: what constriction makes of floating-point weights is what integer arithmetic makes."""
    views = laplacian_views(3, 30.0)
    views[:, 7] = 3
    views[1, 100, 5, 5] = 255
    counts = np.stack([np.bincount(views[:, c].ravel(), minlength=256) for c in range(192)]).astype(np.int64)
    for view in views:
        buffer = ShardCoder(counts).pack(view)
        assert decode_by_integers(buffer, counts, 256) == view.reshape(192, 256).tolist()


@given(arrays(np.int64, 256, elements=st.integers(0, 2**38)))
def test_weights_are_dyadic_whatever_the_counts(counts: np.ndarray) -> None:
    counts[3] += 1
    weights = symbol_weights(counts)
    assert weights.min() >= 0 and weights.sum() + len(weights) == 2**PRECISION_BITS
    assert len(weights) == np.flatnonzero(counts)[-1] + 1


def test_buffers_and_tables_take_little_more_than_the_entropy() -> None:
    views = laplacian_views(64, 3.0)
    rows, tables = code_shard([[codecs.pack(view, "int")] for view in views], (192, 16, 16))
    bits = 0.0
    for channel in range(192):
        counts = np.bincount(views[:, channel].ravel())
        shares = counts[counts > 0] / counts.sum()
        bits -= (counts[counts > 0] * np.log2(shares)).sum()
    buffers = sum(len(row[0]) for row in rows if row is not None)
    assert bits / 8 <= buffers < 1.004 * bits / 8 and len(tables) < 8000


def test_a_shard_without_an_image_can_be_written() -> None:
    rows, tables = code_shard([None, None], (192, 2, 2))
    assert rows == [None, None]
    ShardCoder.from_tables(memoryview(tables), 192)


def test_damage_is_an_error() -> None:
    views = laplacian_views(2, 3.0)
    coder, out = coder_of(views), np.empty((192, 16, 16), np.uint8)
    buffer = coder.pack(views[0])
    rng = np.random.default_rng(0)
    for place in [0, 3, 4, len(buffer) - 1, *rng.integers(0, len(buffer), 30).tolist()]:
        changed = bytearray(buffer)
        changed[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(WorkError, match="ci2p verify"):
            coder.unpack(memoryview(bytes(changed)), out)
    for short in (b"", buffer[:3], buffer[:-4]):
        with pytest.raises(WorkError, match="ci2p verify"):
            coder.unpack(memoryview(short), out)
    for tables in (b"", b"\0" * 100, coder.tables()[:-8]):
        with pytest.raises(WorkError, match="tables of a rans shard are damaged"):
            ShardCoder.from_tables(memoryview(tables), 192)


@pytest.fixture(scope="module")
def archive(cache_format: str, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of `cache`, in each format, as rans. Not to be changed."""
    return encode_folder(image_folder, tmp_path_factory.mktemp("archive") / "cache", format=cache_format, store="rans")


def test_batches_equal_those_of_the_int_store(cache: Path, archive: Path) -> None:
    expected = list(BatchLoader(open_cache(cache, "train"), batch_size=4, seed=3).epoch(1))
    for resident, workers in (("cpu", 1), ("off", 1), ("off", 3)):
        loader = BatchLoader(
            open_cache(archive, "train"),
            batch_size=4,
            seed=3,
            resident=resident,
            workers=workers,  # type: ignore[arg-type]
        )
        for ours, theirs in zip(loader.epoch(1), expected, strict=True):
            assert torch.equal(ours.latents, theirs.latents) and torch.equal(ours.labels, theirs.labels)


def test_it_holds_the_same_latents_as_the_int_store(cache: Path, archive: Path, tmp_path: Path) -> None:
    """A model trained from the one is evaluated on the other; float16 is something else."""
    integers, coded = open_cache(cache, "train"), open_cache(archive, "val")
    assert np.array_equal(all_views(open_cache(cache, "val")), all_views(coded))
    assert latent_difference(integers.spec, coded.spec) is None
    refuse_mixture(integers.spec, coded.spec)
    assert latent_difference(coded.spec, integers.spec.model_copy(update={"store": "float16"})) == "store"
    assert latent_difference(coded.spec, integers.spec.model_copy(update={"step": 2.0})) == "step"


def test_other_readers_refuse_it_rather_than_misread_it(cache_format: str, archive: Path) -> None:
    split = open_cache(archive, "train")
    if cache_format == "zarr":
        group = zarr.open_group(archive / "train" / "latents.zarr", mode="r")
        assert np.array_equal(group["labels"][:], split.labels)  # type: ignore[index]
        assert "ci2p convert" in str(group.attrs["meaning"])
        with pytest.raises(zarr.errors.UnknownCodecError, match=r"ci2p\.rans"):
            group["latents"]
    else:
        tars = sorted(map(str, (archive / "train").glob("*.tar")))
        records = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
        labels = [label for record in records for label in json.loads(record["json"])["labels"]]
        assert labels == split.labels.tolist()
        with pytest.raises(InputError, match="ci2p convert CACHE TARGET --store int"):
            images_of_records(split.spec)


def test_damaged_tables_are_noticed_on_reading(archive: Path, cache_format: str) -> None:
    split = open_cache(archive, "train")
    reader = ViewReader(split.split_dir, split.manifest)
    fetch = reader._fetch

    def spoiled(name: str, *which: int) -> memoryview:
        if name.endswith(".json"):
            return fetch(name, *which)
        data = bytearray(fetch(name, *which))
        begin = 16 if cache_format == "zarr" else 1536
        data[begin + 16 : begin + 40] = bytes(24)
        return memoryview(bytes(data))

    reader._fetch = spoiled  # type: ignore[method-assign]
    with pytest.raises(WorkError, match=r"the tables of .* are damaged"):
        reader.read(np.array([0]), np.array([0]))
