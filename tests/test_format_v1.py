"""Caches of format version 1 are read as ever, and `convert` brings them over."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ci2p_cache.cache import Cache, open_cache
from ci2p_cache.convert import convert_split
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.reader import ViewReader
from ci2p_cache.seals import seal_json, unseal_json
from ci2p_cache.verify import verify_split
from tests.conftest import call_ci2p, encode_folder, files_of, write_image_folder

FIXTURES = Path(__file__).parent / "fixtures"
# SHA-256 of all latents, float32, views of an image side by side, as the ci2p that wrote them read them.
LATENTS = {
    "train": "ac8b7292d2c2c74ba01239f60f2ea6a1fadf18a8aa5aeb69e8c54fb968f5bd25",
    "val": "a91cf5cea46c4a0d6295af43dc6cfd8118e4f745d595ffe17868765fb9d8f5a9",
}
formats = pytest.mark.parametrize("format", ["zarr", "webdataset"])


def old_cache(format: str) -> Path:
    return FIXTURES / f"cache-v1-{format}"


def latents_of(cache: Cache) -> str:
    reader = ViewReader(cache.split_dir, cache.manifest)
    latents = reader.read_latents(np.repeat(cache.positions, 2), np.tile([0, 1], cache.num_samples))
    return hashlib.sha256(latents.astype("<f4").tobytes()).hexdigest()


@formats
@pytest.mark.parametrize("split", ["train", "val"])
def test_version_1_is_read_and_verified(format: str, split: str) -> None:
    cache = open_cache(old_cache(format), split)
    assert (cache.spec.format_version, cache.num_samples) == (1, {"train": 9, "val": 6}[split])
    assert latents_of(cache) == LATENTS[split]
    assert verify_split(old_cache(format), split) == []
    assert cache.read_contents() is None
    assert sorted(cache.read_items().keys)[0] == "blue/000"


def test_version_1_has_no_seals_and_still_its_files_must_agree(tmp_path: Path) -> None:
    """Whatever decides which latents an image has is held against another file that says it."""
    shutil.copytree(old_cache("webdataset"), tmp_path / "cache")
    val = tmp_path / "cache" / "val"
    whole = json.loads((val / "shards" / "000000.json").read_bytes())
    offsets, keys = whole["view_offsets"], whole["keys"]
    changes = {
        "view_offsets": [offsets[1], offsets[0], *offsets[2:]],
        "keys": [keys[1], keys[0], *keys[2:]],
        "spec_id": "0" * 16,
        "shard": 1,
    }
    for field, changed in changes.items():
        (val / "shards" / "000000.json").write_text(json.dumps(whole | {field: changed}))
        assert verify_split(tmp_path / "cache", "val"), field
        with pytest.raises(WorkError):
            convert_split(tmp_path / "cache", tmp_path / "new", "val")
    (val / "shards" / "000000.json").write_text(json.dumps(whole))
    assert verify_split(tmp_path / "cache", "val") == []
    manifest = json.loads((val / "manifest.json").read_bytes())
    (val / "manifest.json").write_text(json.dumps(manifest | {"classes": manifest["classes"][::-1]}))
    (problem,) = verify_split(tmp_path / "cache", "val")
    assert "items_sha256" in problem


@formats
def test_version_1_is_inspected_trained_on_and_evaluated(format: str, tmp_path: Path) -> None:
    shown = call_ci2p("inspect", old_cache(format), cwd=tmp_path)
    assert shown.returncode == 0 and "failed: red/broken: not an image" in shown.stdout
    settings = [
        "--model",
        "ci2p_vit_tiny",
        "--recipe",
        "quick",
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--device",
        "cpu",
    ]
    trained = call_ci2p("train", "--shards", old_cache(format), "--out", "run", *settings, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    # Its images are known by name alone, so those of val are found in their folder, and nothing can be said of others.
    images = write_image_folder(tmp_path / "images", train=3, val=2)
    found = call_ci2p("eval", "--checkpoint", "run", "--images", images, "--workers", "0", cwd=tmp_path)
    assert "6 of the 6 images of val" in found.stdout, found.stderr
    other = write_image_folder(tmp_path / "others", train=2, val=2)
    for name in ("blue", "green", "red"):
        for file in (other / "val" / name).iterdir():
            file.rename(file.with_name(f"other-{file.name}"))
    found = call_ci2p("eval", "--checkpoint", "run", "--images", other, "--workers", "0", cwd=tmp_path)
    assert "all 6 images of" in found.stdout and "not known" in found.stdout


@formats
def test_convert_brings_it_over(format: str, tmp_path: Path) -> None:
    done = call_ci2p("convert", old_cache(format), "new", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for split in ("train", "val"):
        cache = open_cache(tmp_path / "new", split)
        assert cache.spec.format_version == 2
        assert latents_of(cache) == LATENTS[split]
        assert verify_split(tmp_path / "new", split) == []
        contents = cache.read_contents()
        assert contents is not None and not contents.known.any()
    again = call_ci2p("convert", "new", "third", cwd=tmp_path)
    assert again.returncode == 2 and "convert to what?" in again.stderr


def test_encoding_into_version_1_is_refused_with_a_way_out(tmp_path: Path) -> None:
    shutil.copytree(old_cache("zarr"), tmp_path / "cache")
    images = write_image_folder(tmp_path / "images", train=3, val=2)
    before = files_of(tmp_path / "cache")
    with pytest.raises(InputError, match=r"is of format version 1, .*`ci2p convert"):
        encode_folder(images, tmp_path / "cache")
    assert files_of(tmp_path / "cache") == before


def test_a_version_of_the_future_is_refused(tmp_path: Path, zarr_cache: Path) -> None:
    shutil.copytree(zarr_cache, tmp_path / "cache")
    manifest = tmp_path / "cache" / "val" / "manifest.json"
    body = unseal_json(manifest.read_bytes())
    assert body is not None
    content = json.loads(body)
    content["spec"]["format_version"] = 3
    manifest.write_bytes(seal_json(json.dumps(content).encode()))
    with pytest.raises(InputError, match="newer ci2p"):
        open_cache(tmp_path / "cache", "val")
