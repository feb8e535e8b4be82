"""verify: promise C6, any changed byte of any file is found, and so is a file that is missing or does not belong."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from ci2p_cache.cache import open_cache
from ci2p_cache.convert import convert_split
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.marker import marker_path, read_marker
from ci2p_cache.process import this_process
from ci2p_cache.verify import find_splits, verify_split
from tests.conftest import call_ci2p, encode_folder, files_of


def test_c6_an_intact_cache_verifies(cache: Path) -> None:
    assert find_splits(cache) == ["train", "val"]
    assert verify_split(cache, "train") == verify_split(cache, "val") == []


@pytest.mark.parametrize("store", ["int", "rans"])
@pytest.mark.parametrize("format", ["zarr", "webdataset"])
def test_c6_any_changed_byte_is_found(image_folder: Path, tmp_path: Path, format: str, store: str) -> None:
    cache = encode_folder(image_folder, tmp_path / "cache", format=format, store=store)
    marker = read_marker(cache / "val", 1)
    assert marker is not None
    shard = cache / "val" / marker.record.file
    data = shard.read_bytes()
    rng = np.random.default_rng(0)
    for place in [0, len(data) - 1, *rng.integers(0, len(data), 30).tolist()]:
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        shard.write_bytes(bytes(changed))
        problems = verify_split(cache, "val")
        assert len(problems) == 1 and marker.record.file in problems[0] and "changed" in problems[0]
    shard.write_bytes(data[:-1])
    assert "bytes instead of" in verify_split(cache, "val")[0]
    shard.unlink()
    assert "missing" in verify_split(cache, "val")[0]
    shard.write_bytes(data)
    assert verify_split(cache, "val") == []
    marker_path(cache / "val", 1).unlink()
    assert verify_split(cache, "val")[0].startswith("val/shards/000001.json: missing")


def test_c6_a_split_is_known_by_any_of_its_files(image_folder: Path, tmp_path: Path) -> None:
    cache = encode_folder(image_folder, tmp_path / "cache")
    (cache / "val" / "spec.json").unlink()
    assert find_splits(cache) == ["train", "val"]
    assert verify_split(cache, "val") == [
        "val/spec.json: missing; run the same `ci2p encode` again to restore it",
    ]
    seen = call_ci2p("inspect", cache, cwd=tmp_path)
    assert seen.returncode == 2 and "val/spec.json cannot be read" in seen.stderr
    (cache / "val" / "manifest.json").unlink()
    shutil.rmtree(cache / "val" / "shards")
    assert "not finished" in verify_split(cache, "val")[0]
    shutil.rmtree(cache / "val" / "latents.zarr")
    (cache / "val" / "items" / "hashes.npy").unlink()
    assert find_splits(cache) == ["train", "val"]
    # An item list alone is that of a split which was held out and never encoded.
    (cache / "val" / "items" / "num_bytes.npy").unlink()
    assert find_splits(cache) == ["train"]


def test_c6_what_does_not_belong_is_found(image_folder: Path, tmp_path: Path) -> None:
    cache = encode_folder(image_folder, tmp_path / "cache", splits=["val"])
    for name in ("000000.tar", "latents.zarr/latents/c/7/0/0/0/0", ".hidden", "items/more/notes.txt"):
        path = cache / "val" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        assert verify_split(cache, "val") == [f"val/{name}: no file of the cache; delete it"]
        path.unlink()
    # What a process writes aside, or a folder that lies elsewhere, is no damage.
    (cache / "val" / f".manifest.json.{this_process()}.tmp").write_bytes(b"")
    (cache / "val" / "items").rename(tmp_path / "elsewhere")
    (cache / "val" / "items").symlink_to(tmp_path / "elsewhere")
    assert verify_split(cache, "val") == []
    (cache / "val" / "spec.json").unlink()
    os.mkfifo(cache / "val" / "spec.json")
    assert "val/spec.json: not a file" in verify_split(cache, "val")[0]


@pytest.mark.parametrize("format", ["zarr", "webdataset"])
def test_encode_again_restores_or_says(image_folder: Path, tmp_path: Path, format: str) -> None:
    """Whatever file is gone is back after the same command; what has changed is restored, or named with a way out."""
    cache = encode_folder(image_folder, tmp_path / "cache", format=format, splits=["val"])
    whole = files_of(cache)
    for name, data in whole.items():
        path = cache / name
        path.unlink()
        encode_folder(image_folder, cache, format=format, splits=["val"])
        assert files_of(cache) == whole, name
        changed = bytearray(data)
        changed[len(data) // 2] ^= 1
        path.write_bytes(changed)
        if name.endswith(".tar") or "/latents/c/" in name:
            assert verify_split(cache, "val")  # latents, which encode does not read again
        else:
            try:
                encode_folder(image_folder, cache, format=format, splits=["val"])
            except (WorkError, InputError) as error:
                assert "\n" not in str(error) and path.name in str(error)
                path.unlink()
                encode_folder(image_folder, cache, format=format, splits=["val"])
        path.unlink(missing_ok=True)
        encode_folder(image_folder, cache, format=format, splits=["val"])
        assert files_of(cache) == whole, name


@pytest.mark.parametrize("format", ["zarr", "webdataset"])
def test_convert_certifies_no_damage(image_folder: Path, tmp_path: Path, format: str) -> None:
    cache = encode_folder(image_folder, tmp_path / "cache", format=format, splits=["val"])
    for name, data in files_of(cache).items():
        changed = bytearray(data)
        changed[len(data) // 2] ^= 1
        (cache / name).write_bytes(changed)
        with pytest.raises(WorkError, match=Path(name).name):
            convert_split(cache, tmp_path / "target", "val", store="rans")
        assert not (tmp_path / "target").exists()
        (cache / name).write_bytes(data)
    convert_split(cache, tmp_path / "target", "val", store="rans")
    assert verify_split(tmp_path / "target", "val") == []


def test_a_manifest_without_seals_is_refused_in_a_line(image_folder: Path, tmp_path: Path) -> None:
    """As early caches of format version 2 have it."""
    cache = encode_folder(image_folder, tmp_path / "cache", splits=["val"])
    path = cache / "val" / "manifest.json"
    content = json.loads(path.read_bytes())
    del content["seal"], content["files"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="did not seal its files yet; encode the images again"):
        open_cache(cache, "val")
    (problem,) = verify_split(cache, "val")
    assert "did not seal" in problem


def test_what_is_no_cache_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        find_splits(tmp_path / "nothing")
    with pytest.raises(InputError, match="no ci2p cache"):
        find_splits(tmp_path)
