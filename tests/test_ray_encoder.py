"""What runs on the nodes of a cluster, in this process and without ray: a shard is an idempotent task."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci2p_cache.errors import InputError
from ci2p_cache.marker import marker_path
from pipeline.encode import ray_encoder, run
from pipeline.encode.encoder import Encoder
from pipeline.encode.ray_encoder import EncoderSettings, ShardEncoder, Tally
from pipeline.encode.resume import ShardWork
from pipeline.encode.shard_writer import SplitJob
from pipeline.running.progress import Advance
from tests.conftest import encode_folder, files_of


def encode_by(
    monkeypatch: pytest.MonkeyPatch,
    give: Callable[[list[ShardEncoder], SplitJob, list[ShardWork]], None],
    *arguments: Any,
    **settings: Any,
) -> Path:
    """Encodes a folder by two `ShardEncoder`s, to which `give` gives the shards."""

    def writing(encoder: Encoder) -> Callable[[SplitJob, list[ShardWork], Advance], None]:
        def write(job: SplitJob, work: list[ShardWork], advance: Advance) -> None:
            encoders = [ShardEncoder(1, 0), ShardEncoder(1, 0)]
            wanted = EncoderSettings("bundled", "cpu", "float32", "torch", encoder.weights_sha256)
            for each in encoders:
                assert isinstance(each.load(wanted), str)
            give(encoders, job, work)

        return write

    monkeypatch.setattr(run, "writing_here", writing)
    monkeypatch.setattr(ray_encoder, "_get", lambda reference: reference)
    return encode_folder(*arguments, **settings)


def test_shards_that_are_tried_twice_in_any_order(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give(encoders: list[ShardEncoder], job: SplitJob, work: list[ShardWork]) -> None:
        for each in reversed(work):
            assert encoders[0].encode([job], each) == Tally(each.shard, each.num_todo, 0) == encoders[0].tally()
            written = marker_path(job.split_dir, each.shard).stat().st_mtime_ns  # type: ignore[union-attr]
            assert encoders[1].encode([job], each) == Tally(each.shard, each.num_todo, 0)
            assert marker_path(job.split_dir, each.shard).stat().st_mtime_ns == written  # type: ignore[union-attr]

    made = encode_by(monkeypatch, give, image_folder, tmp_path / "cache")
    monkeypatch.undo()
    assert files_of(made) == files_of(encode_folder(image_folder, tmp_path / "alone"))


def test_a_try_that_was_lost_while_it_wrote_a_shard_anew(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marker is away and the file is the old one; the next try has the whole shard to do."""
    bad = sorted(image_folder.rglob("train/**/*.png"))[0]
    images = tmp_path / "images"
    for path in image_folder.rglob("*.png"):
        target = images / path.relative_to(image_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"no image" if path == bad else path.read_bytes())
    cache = encode_folder(images, tmp_path / "cache", on_error="skip")
    (images / bad.relative_to(image_folder)).write_bytes(bad.read_bytes())

    def give(encoders: list[ShardEncoder], job: SplitJob, work: list[ShardWork]) -> None:
        (mended,) = work
        assert mended.marker is not None and len(mended.todo) == 1
        marker_path(job.split_dir, mended.shard).unlink()
        assert encoders[0].encode([job], mended) == Tally(mended.shard, len(mended.items), 0)

    encode_by(monkeypatch, give, images, cache, on_error="skip")
    monkeypatch.undo()
    whole = encode_folder(images, tmp_path / "whole")
    mended, expected = files_of(cache), files_of(whole)
    shards = [name for name in expected if "latents.zarr" in name]
    assert shards and [mended[name] for name in shards] == [expected[name] for name in shards]


def test_what_a_node_lacks_comes_back_as_an_error(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ShardEncoder(1, 0).load(EncoderSettings("bundled", "cpu", "float32", "torch", "0" * 64))
    assert isinstance(other, InputError) and "has another encoder by that name" in str(other)

    def give(encoders: list[ShardEncoder], job: SplitJob, work: list[ShardWork]) -> None:
        found = encoders[0].encode([replace(job, split_dir=tmp_path / "elsewhere/train")], work[0])
        assert isinstance(found, InputError) and "does not see that folder; give one that all nodes share" in str(found)
        for each in work:
            encoders[1].encode([job], each)

    encode_by(monkeypatch, give, image_folder, tmp_path / "cache")
