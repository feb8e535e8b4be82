"""verify: promise C6, any changed byte of a shard is found."""

from pathlib import Path

import numpy as np
import pytest

from ci2p_cache.errors import InputError
from ci2p_cache.manifest import marker_path, read_marker
from ci2p_cache.verify import find_splits, verify_split
from tests.conftest import encode_folder


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
    assert "its marker is missing" in verify_split(cache, "val")[0]


def test_what_is_no_cache_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        find_splits(tmp_path / "nothing")
    with pytest.raises(InputError, match="no ci2p cache"):
        find_splits(tmp_path)
