"""What a second run of stage one finds: images that changed, failed, were mended, are gone or new."""

import json
import os
from pathlib import Path

import pytest

from ci2p_cache.cache import open_cache
from ci2p_cache.errors import WorkError
from ci2p_cache.items import hash_content
from ci2p_cache.manifest import Manifest
from ci2p_cache.marker import marker_path, read_marker
from ci2p_cache.verify import verify_split
from pipeline.encode.source_check import check_source
from tests.conftest import call_ci2p, encode_folder, files_of, write_image, write_image_folder

formats = pytest.mark.parametrize("format", ["zarr", "webdataset"])


def images_in(tmp_path: Path, *, train: int = 4, val: int = 2) -> Path:
    return write_image_folder(tmp_path / "images", train=train, val=val)


def manifest_of(cache: Path, split: str = "train") -> Manifest:
    return open_cache(cache, split).manifest


def shard_of(cache: Path, key: str, split: str = "train") -> int:
    items = open_cache(cache, split).read_items()
    return list(items.keys).index(key) // 4


def shards_and_labels(cache: Path) -> dict[str, bytes]:
    """What is stored, without what says when and from which state of the files it was."""
    return {name: data for name, data in files_of(cache).items() if "shards" not in name and "manifest" not in name}


def test_markers_know_what_each_image_held(tmp_path: Path) -> None:
    images = images_in(tmp_path)
    cache = encode_folder(images, tmp_path / "cache")
    marker = read_marker(cache / "train", 0)
    assert marker is not None and marker.image_hashes and marker.image_bytes and marker.modified_ns
    for key, num_bytes, hash, modified_ns in zip(
        marker.keys, marker.image_bytes, marker.image_hashes, marker.modified_ns, strict=True
    ):
        file = images / "train" / f"{key}.png"
        assert hash == hash_content(file.read_bytes())
        assert (num_bytes, modified_ns) == (file.stat().st_size, file.stat().st_mtime_ns)
    contents = open_cache(cache, "train").read_contents()
    assert contents is not None and contents.known.all() and contents.hash_at(0) == marker.image_hashes[0]


@formats
@pytest.mark.parametrize("store", ["int", "rans", "float16"])
def test_a_replaced_image_is_encoded_anew_alone(
    tmp_path: Path, format: str, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    images = images_in(tmp_path)
    settings = {"format": format, "store": store, "step": 0.05}  # so small a step that integers need escapes
    cache = encode_folder(images, tmp_path / "cache", **settings)
    write_image(images / "train" / "red" / "001.png", seed=99)
    with caplog.at_level("WARNING", logger="ci2p"):
        encode_folder(images, cache, **settings)
    assert "train: images that have changed since they were encoded: 1 (red/001)" in caplog.text
    fresh = encode_folder(images, tmp_path / "fresh", **settings)
    assert shards_and_labels(cache) == shards_and_labels(fresh)
    assert verify_split(cache, "train") == check_source(cache, "train", str(images)) == []
    caplog.clear()
    before = files_of(cache)
    encode_folder(images, cache, **settings)
    assert files_of(cache) == before and "changed" not in caplog.text


def test_a_change_that_keeps_size_and_shape_is_found_by_its_time(tmp_path: Path) -> None:
    images = images_in(tmp_path)
    victim = images / "train" / "red" / "001.png"
    cache = encode_folder(images, tmp_path / "cache")
    data = victim.read_bytes()
    other = (images / "train" / "red" / "002.png").read_bytes()
    victim.write_bytes(other[: len(data)].ljust(len(data), b"\0"))
    with pytest.raises(WorkError, match="train image red/001"):  # cut or padded, it is no picture any more
        encode_folder(images, cache)
    victim.write_bytes(data)
    encode_folder(images, cache)
    assert verify_split(cache, "train") == check_source(cache, "train", str(images)) == []


def test_touched_files_are_read_once_and_nothing_is_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_in(tmp_path)
    cache = encode_folder(images, tmp_path / "cache")
    stored = shards_and_labels(cache)
    victim = images / "train" / "red" / "001.png"
    os.utime(victim, ns=(1, 2))
    import pipeline.encode.resume

    read: list[int] = []
    read_item = pipeline.encode.resume.read_item
    monkeypatch.setattr(pipeline.encode.resume, "read_item", lambda split, i: (read.append(i), read_item(split, i))[1])
    encode_folder(images, cache)
    encode_folder(images, cache)
    assert len(read) == 1
    assert shards_and_labels(cache) == stored
    assert verify_split(cache, "train") == []


@formats
def test_a_mended_image_is_encoded_alone(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_in(tmp_path)
    victim = images / "train" / "green" / "002.png"
    good = victim.read_bytes()
    victim.write_bytes(good[:50])
    cache = encode_folder(images, tmp_path / "cache", format=format, on_error="skip")
    assert manifest_of(cache).num_failed == 1
    with pytest.raises(WorkError, match=r"train image green/002: .*mend or remove it"):
        encode_folder(images, cache, format=format)
    victim.write_bytes(good)
    import pipeline.encode.shard_writer

    encoded: list[int] = []
    pack_row = pipeline.encode.shard_writer.pack_row
    monkeypatch.setattr(
        pipeline.encode.shard_writer, "pack_row", lambda *given: (encoded.append(1), pack_row(*given))[1]
    )
    encode_folder(images, cache, format=format)
    assert encoded == [1]
    assert manifest_of(cache).num_failed == 0
    fresh = encode_folder(images, tmp_path / "fresh", format=format)
    assert shards_and_labels(cache) == shards_and_labels(fresh)
    assert verify_split(cache, "train") == []


def test_what_fails_again_leaves_the_cache_as_it_was(tmp_path: Path) -> None:
    images = images_in(tmp_path)
    (images / "train" / "red" / "bad.jpg").write_bytes(b"")
    cache = encode_folder(images, tmp_path / "cache", on_error="skip")
    before = files_of(cache)
    encode_folder(images, cache, on_error="skip")
    assert files_of(cache) == before


def test_a_killed_rewriting_leaves_a_shard_to_encode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_in(tmp_path)
    cache = encode_folder(images, tmp_path / "cache")
    write_image(images / "train" / "red" / "001.png", seed=99)
    import pipeline.encode.shard_writer

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.encode.shard_writer, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        encode_folder(images, cache)
    monkeypatch.undo()
    assert verify_split(cache, "train")  # not finished, so nobody trains on a mixture
    encode_folder(images, cache)
    assert shards_and_labels(cache) == shards_and_labels(encode_folder(images, tmp_path / "fresh"))


def test_a_damaged_shard_is_not_taken_over(tmp_path: Path) -> None:
    images = images_in(tmp_path)
    cache = encode_folder(images, tmp_path / "cache")
    write_image(images / "train" / "red" / "001.png", seed=99)
    marker = read_marker(cache / "train", shard_of(cache, "red/001"))
    assert marker is not None
    file = cache / "train" / marker.record.file
    data = bytearray(file.read_bytes())
    data[10] ^= 1
    file.write_bytes(data)
    with pytest.raises(WorkError, match=r"has changed since it was written"):
        encode_folder(images, cache)


# verify --data-dir, --dry-run


def test_verify_holds_a_cache_against_its_images(tmp_path: Path) -> None:
    images = images_in(tmp_path)
    encode_folder(images, tmp_path / "cache")
    sound = call_ci2p("verify", "cache", "--data-dir", images, cwd=tmp_path)
    assert sound.returncode == 0 and f"made from what {images} holds" in sound.stdout
    write_image(images / "val" / "red" / "001.png", seed=77)
    found = call_ci2p("verify", "cache", "--data-dir", images, cwd=tmp_path)
    assert found.returncode == 1
    assert "val: image red/001 has changed since it was encoded" in found.stdout
    assert "train: every file is as it was written" in found.stdout


def test_a_dry_run_estimates_and_writes_nothing(tmp_path: Path) -> None:
    images = images_in(tmp_path)
    (images / "train" / "notes.txt").write_text("x")
    planned = call_ci2p(
        "encode", "--dataset", "folder", "--data-dir", images, "--image-size", "32", "--workers", "0",
        "--out", "cache", "--dry-run", "--json", "plan.json", cwd=tmp_path,
    )  # fmt: skip
    assert planned.returncode == 0, planned.stderr
    assert "12 images, 3 classes: blue, green, red" in planned.stderr and "notes.txt" in planned.stderr
    assert "nothing was written" in planned.stdout
    assert not (tmp_path / "cache").exists()
    plan = json.loads((tmp_path / "plan.json").read_text())
    encode_folder(images, tmp_path / "cache")
    assert plan["train"]["num_images"] == 12 and plan["train"]["num_views"] == 24
    assert plan["train"]["left_out"][0]["names"] == ["train/notes.txt"]
    assert plan["train"]["bytes_total"] == pytest.approx(manifest_of(tmp_path / "cache").bytes_total, rel=0.5)


def test_markers_of_a_kept_image_survive(tmp_path: Path) -> None:
    """A shard that is written anew for one image says of the others what it said."""
    images = images_in(tmp_path)
    cache = encode_folder(images, tmp_path / "cache")
    shard = shard_of(cache, "red/001")
    before = read_marker(cache / "train", shard)
    write_image(images / "train" / "red" / "001.png", seed=99)
    encode_folder(images, cache)
    after = read_marker(cache / "train", shard)
    assert before is not None and after is not None and before.image_hashes and after.image_hashes
    place = after.keys.index("red/001")
    assert after.image_hashes[place] != before.image_hashes[place]
    assert [h for i, h in enumerate(after.image_hashes) if i != place] == [
        h for i, h in enumerate(before.image_hashes) if i != place
    ]
    assert marker_path(cache / "train", shard).exists()
