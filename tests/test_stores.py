"""zarr_store and tar_store: each format's own ecosystem reads what we wrote, and sees what our reader sees."""

from pathlib import Path

import numcodecs
import numpy as np
import pytest
import webdataset
import zarr

from ci2p_cache import codecs, tar_store, zarr_store
from ci2p_cache.cache import Cache, open_cache
from ci2p_cache.errors import WorkError
from ci2p_cache.reader import ViewReader
from tests.conftest import encode_folder


def all_views(cache: Cache) -> np.ndarray:
    """Stored values [N, V, C, H, W] of every sample, by our reader."""
    views = range(len(cache.spec.views))
    reader = ViewReader(cache.split_dir, cache.manifest)
    return np.stack([reader.read(cache.positions, np.full(cache.num_samples, view)) for view in views], axis=1)


@pytest.mark.parametrize("store", ["int", "float16"])
def test_zarr_python_reads_the_same_values_and_labels(image_folder: Path, tmp_path: Path, store: str) -> None:
    path = encode_folder(image_folder, tmp_path / "cache", store=store)
    for split in ("train", "val"):
        cache = open_cache(path, split)
        group = zarr.open_group(path / split / "latents.zarr", mode="r")
        assert isinstance(group["latents"], zarr.Array)
        assert group["latents"].shape == (cache.num_samples, 2, 192, 2, 2)
        assert group["latents"].chunks == (1, 1, 192, 2, 2)
        assert group["latents"].shards == (4, 2, 192, 2, 2)
        assert np.array_equal(group["latents"][:], all_views(cache))
        assert np.array_equal(group["labels"][:], cache.labels)
        assert group.attrs["classes"] == ["blue", "green", "red"]


def test_plain_webdataset_and_numcodecs_read_the_same_values(image_folder: Path, tmp_path: Path) -> None:
    """Without ci2p: a Blosc buffer a view, one after another, each saying at byte 12 how long it is."""
    cache = open_cache(encode_folder(image_folder, tmp_path / "cache", format="webdataset"), "train")
    stored = all_views(cache)
    tars = sorted(map(str, (tmp_path / "cache" / "train").glob("*.tar")))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
    assert len(samples) == cache.num_samples
    for sample, views, label in zip(samples, stored, cache.labels, strict=True):
        assert int(sample["cls"]) == label
        assert sample["__key__"].split("/")[0] == cache.classes[label]
        first = int.from_bytes(sample["latents"][12:16], "little")
        for view, buffer in zip(views, (sample["latents"][:first], sample["latents"][first:]), strict=True):
            plain = np.frombuffer(numcodecs.Blosc().decode(buffer), np.uint8).reshape(192, 2, 2)
            assert np.array_equal(plain, view)


@pytest.mark.parametrize("store", ["int", "float16"])
def test_the_published_decoder_serves_plain_webdataset(image_folder: Path, tmp_path: Path, store: str) -> None:
    path = encode_folder(image_folder, tmp_path / "cache", format="webdataset", store=store)
    cache = open_cache(path, "val")
    tars = sorted(map(str, (path / "val").glob("*.tar")))
    decoder = tar_store.latent_decoder(cache.spec)
    samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).decode(decoder))
    assert np.array_equal(np.stack([sample["latents"] for sample in samples]), all_views(cache))
    assert [sample["cls"] for sample in samples] == cache.labels.tolist()


def test_both_formats_hold_the_same_values(image_folder: Path, tmp_path: Path) -> None:
    caches = [
        open_cache(encode_folder(image_folder, tmp_path / name, format=name), "train")
        for name in ("zarr", "webdataset")
    ]
    assert np.array_equal(all_views(caches[0]), all_views(caches[1]))
    assert np.array_equal(caches[0].labels, caches[1].labels)


def test_a_damaged_zarr_index_is_noticed(image_folder: Path, tmp_path: Path) -> None:
    path = encode_folder(image_folder, tmp_path / "cache")
    shard = path / "train" / zarr_store.shard_file(0)
    data = bytearray(shard.read_bytes())
    data[-10] ^= 1
    shard.write_bytes(bytes(data))
    cache = open_cache(path, "train")
    with pytest.raises(WorkError, match="index of a zarr shard is damaged"):
        ViewReader(cache.split_dir, cache.manifest).read(np.array([0]), np.array([0]))


def test_keys_with_dots_stay_whole_in_a_tar() -> None:
    view = codecs.pack(np.zeros((192, 2, 2), np.uint8), "int")
    keys = ["a/photo.v2.final", "b/50%.x"]
    data, offsets, sizes = tar_store.shard_bytes(keys, [0, 1], [(view, view), None])
    assert tar_store.sample_key(keys[0]) == "a/photo%2Ev2%2Efinal"
    assert data[offsets[0][1] : offsets[0][1] + sizes[0][1]] == view
    assert offsets[1] == sizes[1] == []
