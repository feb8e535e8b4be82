"""Stage one's run: promises C2 to C5, on the real encoder."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

import ci2p_cache.manifest
import ci2p_cache.marker
import ci2p_cache.shard
from ci2p_cache.cache import open_cache
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.marker import marker_file, marker_path, read_marker
from ci2p_cache.publish import publish
from ci2p_cache.verify import verify_split
from ci2p_cache.zarr_store import shard_file
from tests.conftest import CLASSES, encode_folder, files_of, run_ci2p, write_image_folder
from tests.forked import Forked


class Killed(BaseException):
    """Stands for a SIGKILL inside this process: nothing that catches errors may catch it."""


def test_c2_the_marker_is_published_after_the_shard_and_the_manifest_last(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[str] = []

    def record(path: Path, *parts: bytes) -> None:
        published.append(str(path.relative_to(tmp_path / "cache" / "train")))
        publish(path, *parts)

    for module in (ci2p_cache.shard, ci2p_cache.marker, ci2p_cache.manifest):
        monkeypatch.setattr(module, "publish", record)
    encode_folder(image_folder, tmp_path / "cache", splits=["train"])
    shards = [name for number in range(6) for name in (shard_file(number), marker_file(number))]
    assert published[:12] == shards and published[-1] == "manifest.json"
    assert not {*published[12:-1]} & {*shards, "manifest.json"}


@pytest.mark.parametrize("format", ["zarr", "webdataset"])
def test_c2_a_shard_without_its_marker_does_not_exist(image_folder: Path, tmp_path: Path, format: str) -> None:
    cache = encode_folder(image_folder, tmp_path / "cache", format=format)
    whole = files_of(cache)
    marker = marker_path(cache / "train", 3)
    record = read_marker(cache / "train", 3)
    assert record is not None
    marker.unlink()
    (cache / "train" / record.record.file).write_bytes(b"half a sha")
    assert verify_split(cache, "train")
    encode_folder(image_folder, cache, format=format)
    assert files_of(cache) == whole


@pytest.mark.parametrize(
    "settings",
    [{"format": "zarr"}, {"format": "webdataset"}, {"step": 0.05}, {"format": "webdataset", "store": "rans"}],
)
def test_c4_a_crash_at_any_write_and_a_second_run_equal_one_run(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]
) -> None:
    """Every write of a run is cut once, before it or half-way through, and the run repeated."""
    settings = settings | {"splits": ["val"]}
    whole = files_of(encode_folder(image_folder, tmp_path / "whole", **settings))
    num_writes = 7
    for cut in range(num_writes):
        cache = tmp_path / f"cut{cut}"
        calls = 0

        def cut_short(path: Path, *parts: bytes, cut: int = cut) -> None:
            nonlocal calls
            calls += 1
            if calls == cut + 1:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_name(f".{path.name}.elsewhere.1.tmp").write_bytes(b"".join(parts)[:-9])
                raise Killed
            publish(path, *parts)

        with monkeypatch.context() as patch:
            for module in (ci2p_cache.shard, ci2p_cache.marker, ci2p_cache.manifest):
                patch.setattr(module, "publish", cut_short)
            with pytest.raises(Killed):
                encode_folder(image_folder, cache, **settings)
        with pytest.raises(InputError, match="not finished"):
            open_cache(cache, "val")
        encode_folder(image_folder, cache, **settings)
        published = {name: data for name, data in files_of(cache).items() if not name.endswith(".tmp")}
        assert published == whole


@pytest.mark.parametrize("format", ["zarr", "webdataset"])
def test_c4_really_killed_at_several_moments(tmp_path: Path, format: str) -> None:
    """SIGKILL after the first, the fifth and the last marker, and once at a time of its own; then left to finish."""
    images = write_image_folder(tmp_path / "images", train=20, val=4)
    settings = {"format": format, "shard_size": 5, "batch_size": 5, "crops": 1}
    whole = files_of(encode_folder(images, tmp_path / "whole", **settings))
    cache = tmp_path / "killed"
    command = ["encode", "--dataset", "folder", "--data-dir", str(images)]
    command += ["--out", str(cache), "--image-size", "32", "--shard-size", "5", "--batch-size", "5"]
    command += ["--format", format, "--crops", "1", "--workers", "1", "--device", "cpu"]
    kills = 0
    for markers, extra_seconds in ((1, 0.0), (5, 0.01), (8, 0.03), (14, 0.0)):
        process = Forked(command, cwd=tmp_path, start_new_session=True)
        deadline = time.monotonic() + 120
        while len(list(cache.glob("*/shards/*.json"))) < markers and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(extra_seconds)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 2
    finished = run_ci2p(*command, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert {name: data for name, data in files_of(cache).items() if not name.endswith(".tmp")} == whole


def test_c4_finished_shards_are_not_touched(image_folder: Path, tmp_path: Path) -> None:
    cache = encode_folder(image_folder, tmp_path / "cache")
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    encode_folder(image_folder, cache)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()} == before


def test_c4_ranks_write_the_same_cache(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = files_of(encode_folder(image_folder, tmp_path / "whole"))
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in (2, 0, 1):
        with pytest.raises(InputError):
            open_cache(tmp_path / "cache", "train")
        monkeypatch.setenv("RANK", str(rank))
        encode_folder(image_folder, tmp_path / "cache")
    assert files_of(tmp_path / "cache") == whole


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("step", {"step": 0.5}),
        ("store", {"store": "float16"}),
        ("views", {"views": "plain"}),
        ("image_size", {"image_size": 64}),
        ("short_edge", {"short_edge": 40}),
        ("format", {"format": "webdataset"}),
        ("seed", {"seed": 1}),
        ("shard_size", {"shard_size": 8}),
    ],
)
def test_c3_another_spec_into_the_same_folder_is_refused(
    zarr_cache: Path, image_folder: Path, field: str, changed: dict[str, object]
) -> None:
    before = files_of(zarr_cache)
    with pytest.raises(InputError, match=rf"holds another cache: {field} is .* there and .* give another --out"):
        encode_folder(image_folder, zarr_cache, **changed)
    assert files_of(zarr_cache) == before


def test_c3_other_items_and_another_encoder_are_refused(tmp_path: Path) -> None:
    images = write_image_folder(tmp_path / "images", train=2, val=1)
    cache = encode_folder(images, tmp_path / "cache", splits=["train"])
    weights = tmp_path / "other.safetensors"
    other_weights(weights)
    # The other split of the same cache must come from the same encoder, too.
    with pytest.raises(InputError, match=r"weights_sha256 is .*--weights"):
        encode_folder(images, cache, splits=["val"], weights=str(weights))
    (images / "train" / CLASSES[0] / "000.png").rename(images / "train" / CLASSES[0] / "new.png")
    with pytest.raises(InputError, match=r"begun without 1 of the images .*\(blue/new\)"):
        encode_folder(images, cache, splits=["train"])


def other_weights(path: Path) -> None:
    import safetensors.torch

    from pipeline.encode.codec import BUNDLED_WEIGHTS

    state = safetensors.torch.load_file(BUNDLED_WEIGHTS)
    state["g_a.0.bias"] += 0.01
    safetensors.torch.save_file(state, path)


@pytest.mark.parametrize("format", ["zarr", "webdataset"])
def test_c5_every_item_is_stored_or_listed_with_its_reason(tmp_path: Path, format: str) -> None:
    images = write_image_folder(tmp_path / "images", train=3, val=2)
    (images / "train" / "red" / "empty.jpg").write_bytes(b"")
    (images / "train" / "blue" / "text.png").write_bytes(b"no image at all")
    truncated = (images / "train" / "green" / "000.png").read_bytes()
    (images / "train" / "green" / "cut.png").write_bytes(truncated[: len(truncated) // 2])
    with pytest.raises(WorkError, match=r"train image (red/empty|blue/text|green/cut): .*--on-error skip"):
        encode_folder(images, tmp_path / "cache", format=format)
    cache = encode_folder(images, tmp_path / "cache", format=format, on_error="skip")
    manifest = json.loads((cache / "train" / "manifest.json").read_text())
    assert (manifest["num_items"], manifest["num_images"], manifest["num_failed"]) == (12, 9, 3)
    assert manifest["num_views"] == 18
    failures = {failure["key"]: failure["reason"] for failure in manifest["failures"]}
    assert set(failures) == {"red/empty", "blue/text", "green/cut"}
    assert failures["red/empty"] == "empty file" and failures["blue/text"] == "not an image"
    assert "truncated" in failures["green/cut"]
    keys = [key for shard in range(3) for key in json.loads(marker_path(cache / "train", shard).read_text())["keys"]]
    assert len(keys) == len(set(keys)) == 12
    split = open_cache(cache, "train")
    assert split.num_samples == 9
    assert {keys[position] for position in split.positions} == set(keys) - set(failures)
    assert all(keys[p].startswith(split.classes[label]) for p, label in zip(split.positions, split.labels, strict=True))
    assert verify_split(cache, "train") == []


def test_a_split_of_failures_alone_says_so(tmp_path: Path) -> None:
    images = write_image_folder(tmp_path / "images", train=2, val=1)
    for image in (images / "val").rglob("*.png"):
        image.write_bytes(b"")
    cache = encode_folder(images, tmp_path / "cache", on_error="skip")
    with pytest.raises(InputError, match="holds no image: all 3 of its items failed"):
        open_cache(cache, "val")


def test_jpegs_decoded_at_a_reduced_scale_make_another_cache(image_folder: Path, tmp_path: Path) -> None:
    full = encode_folder(image_folder, tmp_path / "full")
    assert "jpeg_decode" not in (full / "train" / "spec.json").read_text()  # as before there was a choice
    scaled = encode_folder(image_folder, tmp_path / "scaled", jpeg_decode="scaled")
    assert open_cache(scaled, "train").spec.jpeg_decode == "scaled"
    with pytest.raises(InputError, match=r"jpeg_decode is 'full' there and 'scaled' in this run \(--jpeg-decode\)"):
        encode_folder(image_folder, full, jpeg_decode="scaled")
    with pytest.raises(InputError, match=r"--jpeg-decode scaled and --crops 2: .*; leave one out"):
        encode_folder(image_folder, tmp_path / "crops", jpeg_decode="scaled", crops=2)
