"""zarr_store and tar_store: each format's own ecosystem reads what we wrote, and sees what our reader sees."""

from pathlib import Path

import numcodecs
import numpy as np
import pytest
import webdataset
import zarr

from ci2p_cache import codecs, tar_store, zarr_store
from ci2p_cache.cache import Cache, open_cache
from ci2p_cache.checksums import PackedShard
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
        assert group["keys"][:].tolist() == list(cache.read_keys())
        assert group.attrs["classes"] == ["blue", "green", "red"]


def test_plain_webdataset_and_numcodecs_read_the_same_values(image_folder: Path, tmp_path: Path) -> None:
    """Without ci2p: a Blosc buffer a view, one after another, each saying at byte 12 how long it is."""
    cache = open_cache(encode_folder(image_folder, tmp_path / "cache", format="webdataset"), "train")
    stored = all_views(cache)
    tars = sorted(map(str, (tmp_path / "cache" / "train").glob("*.tar")))
    found = []
    for record in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).decode():
        images, rest = record["json"], record["latents"]
        for key, label in zip(images["keys"], images["labels"], strict=True):
            assert key.split("/")[0] == cache.classes[label]
            for view in range(2):
                length = int.from_bytes(rest[12:16], "little")
                plain = np.frombuffer(numcodecs.Blosc().decode(rest[:length]), np.uint8).reshape(192, 2, 2)
                found.append((label, view, plain))
                rest = rest[length:]
        assert not rest
    assert [label for label, _, _ in found[::2]] == cache.labels.tolist()
    assert np.array_equal(np.stack([plain for _, _, plain in found]), stored.reshape(-1, 192, 2, 2))


@pytest.mark.parametrize("store", ["int", "float16"])
def test_the_published_stage_serves_plain_webdataset(image_folder: Path, tmp_path: Path, store: str) -> None:
    path = encode_folder(image_folder, tmp_path / "cache", format="webdataset", store=store)
    cache = open_cache(path, "val")
    tars = sorted(map(str, (path / "val").glob("*.tar")))
    stage = tar_store.images_of_records(cache.spec)
    samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).compose(stage))
    assert np.array_equal(np.stack([sample["latents"] for sample in samples]), all_views(cache))
    assert [sample["cls"] for sample in samples] == cache.labels.tolist()
    assert len({sample["__key__"] for sample in samples}) == cache.num_samples


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


@pytest.mark.parametrize("record_images", [1, 2, 3, 64])
def test_a_tar_says_where_each_view_lies(image_folder: Path, tmp_path: Path, record_images: int) -> None:
    """Whatever the number of images a record; failures take no place, and keys stay whole."""
    cache = open_cache(encode_folder(image_folder, tmp_path / "cache", format="webdataset"), "train")
    assert cache.spec.record_images == 64
    spec = cache.spec.model_copy(update={"record_images": record_images})
    rng = np.random.default_rng(0)
    views = [[codecs.pack(rng.integers(0, 9, (192, 2, 2), np.uint8), "int") for _ in range(2)] for _ in range(5)]
    rows = [None, *views[:3], None, None, *views[3:]]
    keys = ["gone", "a/photo.v2.final", "b/50%.x", "ü/雪", "gone", "gone", "c", "d"]
    labels = [-1, 0, 1, 2, -1, -1, 0, 1]
    data, offsets, sizes = tar_store.shard_bytes(PackedShard(keys, labels, rows), spec, 7)
    for row, begins, lengths in zip(rows, offsets, sizes, strict=True):
        assert [data[b : b + n] for b, n in zip(begins, lengths, strict=True)] == (row or [])
    (tmp_path / "000007.tar").write_bytes(data)
    tars = webdataset.WebDataset(str(tmp_path / "000007.tar"), shardshuffle=False, empty_check=False)
    assert len(list(tars)) == -(-5 // record_images)
    samples = list(tars.compose(tar_store.images_of_records(spec)))
    assert [sample["__key__"] for sample in samples] == ["a/photo.v2.final", "b/50%.x", "ü/雪", "c", "d"]
    assert [sample["cls"] for sample in samples] == [0, 1, 2, 0, 1]
