"""What docs/format.md says of hashes, seals, ids and positions, by its words alone: no code of ci2p's."""

import hashlib
import json
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

from tests.conftest import encode_folder, write_image_folder


def read_sealed(path: Path) -> dict[str, Any]:
    """A marker or manifest: its seal is SHA-256 of the bytes before `,"seal":`, and a `}`."""
    data = path.read_bytes()
    before, _, after = data.rpartition(b',"seal":')
    assert json.loads(b'{"seal":' + after)["seal"] == hashlib.sha256(before + b"}").hexdigest()
    return json.loads(data)


def compact(value: object, *, sort_keys: bool = False) -> bytes:
    return json.dumps(value, sort_keys=sort_keys, separators=(",", ":")).encode()


@pytest.fixture(scope="module", params=["zarr", "webdataset"])
def split(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a split with hundreds of escapes and an image that failed, the folder of its images)."""
    home = tmp_path_factory.mktemp("format")
    images = write_image_folder(home / "images", train=2, val=1)
    (images / "train" / "red" / "bad.png").write_bytes(b"")
    cache = encode_folder(images, home / "cache", format=request.param, step=0.05, on_error="skip", seed=7)
    return cache / "train", images / "train"


def items_of(split_dir: Path) -> dict[str, Any]:
    arrays = {path.stem: np.load(path) for path in (split_dir / "items").glob("*.npy")}
    bounds = arrays["key_bounds"]
    keys = [arrays["keys"][begin:end].tobytes().decode() for begin, end in pairwise(bounds)]
    return arrays | {"names": keys, "classes": json.loads((split_dir / "items" / "classes.json").read_bytes())}


def test_every_file_is_sealed(split: tuple[Path, Path]) -> None:
    split_dir, _ = split
    manifest = read_sealed(split_dir / "manifest.json")
    files = {path.relative_to(split_dir).as_posix() for path in split_dir.rglob("*") if path.is_file()}
    sealed = {name: tuple(entry) for name, entry in manifest["files"].items()}
    shards = np.load(split_dir / "shards.npy")
    for shard, row in enumerate(shards):
        marker = f"shards/{shard:06d}.json"
        record = read_sealed(split_dir / marker)["record"]
        sealed[record["file"]] = (row["sha256"].tobytes().hex(), int(row["bytes"]))
        sealed[marker] = (row["marker_sha256"].tobytes().hex(), int(row["marker_bytes"]))
    assert files == {*sealed, "manifest.json"}
    for name, (sha256, num_bytes) in sealed.items():
        data = (split_dir / name).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (sha256, num_bytes), name
    assert manifest["bytes_total"] == shards["bytes"].sum()


def test_the_spec_has_its_id(split: tuple[Path, Path]) -> None:
    split_dir, _ = split
    manifest, spec = read_sealed(split_dir / "manifest.json"), json.loads((split_dir / "spec.json").read_bytes())
    assert manifest["spec"] == spec
    assert manifest["spec_id"] == hashlib.sha256(compact(spec, sort_keys=True)).hexdigest()[:16]


def test_items_are_hashed_and_in_the_order_of_their_positions(split: tuple[Path, Path]) -> None:
    split_dir, images = split
    manifest, items = read_sealed(split_dir / "manifest.json"), items_of(split_dir)
    spec, keys = manifest["spec"], items["names"]
    assert keys == sorted(keys, key=lambda key: blake2b(f"{spec['seed']}\t{key}".encode(), digest_size=8).digest())
    hashed = hashlib.sha256("".join(f"{name}\n" for name in items["classes"]).encode())
    for key, label in sorted(zip(keys, items["labels"].tolist(), strict=True)):
        hashed.update(f"{key}\t{label}\n".encode())
    assert spec["items_sha256"] == hashed.hexdigest()
    contents = b"".join(items[name].tobytes() for name in ("keys", "key_bounds", "labels", "num_bytes", "hashes"))
    assert manifest["contents_sha256"] == hashlib.sha256(contents).hexdigest()
    assert len(keys) == manifest["num_items"] == 7
    for key, num_bytes, hash_ in zip(keys, items["num_bytes"], items["hashes"], strict=True):
        [file] = images.glob(f"{key}.*")
        data = file.read_bytes()
        assert (num_bytes, hash_.tobytes()) == (len(data), blake2b(data, digest_size=16).digest())


def test_markers_say_what_their_shards_hold(split: tuple[Path, Path]) -> None:
    split_dir, _ = split
    manifest, items = read_sealed(split_dir / "manifest.json"), items_of(split_dir)
    size, failed, escapes = manifest["spec"]["shard_size"], [], 0
    labels = np.load(split_dir / "labels.npy")
    for shard, row in enumerate(np.load(split_dir / "shards.npy")):
        marker = read_sealed(split_dir / "shards" / f"{shard:06d}.json")
        record = marker["record"]
        assert (marker["shard"], marker["spec_id"]) == (shard, manifest["spec_id"])
        assert [record[name] for name in ("num_samples", "bytes", "num_escapes")] == [
            row[name] for name in ("num_samples", "bytes", "num_escapes")
        ]
        assert [record[name] for name in ("id", "sha256", "escapes_sha256")] == [
            row[name].tobytes().hex() for name in ("id", "sha256", "escapes_sha256")
        ]
        part = labels[shard * size :][:size]
        assert part.tolist() == marker["labels"] and row["labels_crc32c"] == google_crc32c.value(part.tobytes())
        assert marker["keys"] == items["names"][shard * size : (shard + 1) * size]
        failed += [failure["key"] for failure in marker["failures"]]
        assert [key for key, label in zip(marker["keys"], marker["labels"], strict=True) if label == -1] == [
            failure["key"] for failure in marker["failures"]
        ]
        assert marker["image_hashes"] == [hash_.tobytes().hex() for hash_ in items["hashes"][shard * size :][:size]]
        begin = 0 if manifest["spec"]["format"] == "zarr" else 512
        assert (split_dir / record["file"]).read_bytes()[begin : begin + 16].hex() == record["id"]
        assert record["escapes_sha256"] == hashlib.sha256(compact(marker["escapes"])).hexdigest()
        escapes += record["num_escapes"]
        assert record["num_escapes"] == len(marker["escapes"])
    assert len(failed) == manifest["num_failed"] == 1 and escapes > 100
    assert manifest["num_images"] == 6 and manifest["num_views"] == 12
