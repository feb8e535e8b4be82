"""convert: the same samples and values in another format or store, and the same files on the way back."""

from pathlib import Path

import numpy as np
import pytest
import webdataset

import ci2p_cache.shard
from ci2p_cache.cache import open_cache
from ci2p_cache.convert import convert_split
from ci2p_cache.errors import InputError
from ci2p_cache.publish import publish
from ci2p_cache.reader import ViewReader
from tests.conftest import call_ci2p, encode_folder, files_of, write_image_folder
from tests.test_encode import Killed

SPLITS = ("train", "val")
OTHER = {"zarr": "webdataset", "webdataset": "zarr"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 training images, one of them broken, and 6 validation images."""
    root = write_image_folder(tmp_path_factory.mktemp("images"), train=4, val=2)
    (root / "train" / "red" / "broken.png").write_bytes(b"")
    return root


@pytest.mark.parametrize("step", [1.0, 0.05], ids=["plain", "escapes"])
@pytest.mark.parametrize("format", ["zarr", "webdataset"])
def test_converted_equals_encoded(images: Path, tmp_path: Path, format: str, step: float) -> None:
    """Format, store, or both: what comes out is what encoding that way gives, to the byte, and so is the way back."""

    def encode(name: str, **settings: object) -> Path:
        return encode_folder(images, tmp_path / name, on_error="skip", step=step, **settings)

    source = encode("source", format=format)
    targets = [
        (encode("format", format=OTHER[format]), OTHER[format], None),
        (encode("store", format=format, store="rans"), None, "rans"),
        (encode("both", format=OTHER[format], store="rans"), OTHER[format], "rans"),
    ]
    for encoded, target_format, store in targets:
        there, back = tmp_path / f"{encoded.name}-there", tmp_path / f"{encoded.name}-back"
        for _ in range(2):
            for split in SPLITS:
                convert_split(source, there, split, target_format, store)  # type: ignore[arg-type]
        assert files_of(there) == files_of(encoded)
        for split in SPLITS:
            convert_split(there, back, split, format, "int")  # type: ignore[arg-type]
        assert files_of(back) == files_of(source)
    for split in SPLITS:
        convert_split(targets[1][0], tmp_path / "rans", split, OTHER[format])  # type: ignore[arg-type]
    assert files_of(tmp_path / "rans") == files_of(targets[2][0])


def test_what_cannot_be_converted_says_so(images: Path, tmp_path: Path) -> None:
    integers = encode_folder(images, tmp_path / "int", on_error="skip")
    halves = encode_folder(images, tmp_path / "float16", on_error="skip", store="float16")
    with pytest.raises(InputError, match="is the cache to be converted"):
        convert_split(integers, integers, "train", "zarr")
    with pytest.raises(InputError, match="store is"):
        convert_split(integers, halves, "train")
    for source, store in ((integers, "float16"), (halves, "int"), (halves, "rans")):
        refused = call_ci2p("convert", source, "target", "--store", store, cwd=tmp_path)
        assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
        assert f"encode the images with --store {store}" in refused.stderr
    refused = call_ci2p("convert", integers, "target", cwd=tmp_path)
    assert refused.returncode == 2 and "give --format, --store or --record-images" in refused.stderr
    assert not (tmp_path / "target").exists()


def test_c4_a_killed_conversion_goes_on(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = encode_folder(images, tmp_path / "int", on_error="skip", splits=["train"])
    whole = files_of(encode_folder(images, tmp_path / "rans", on_error="skip", splits=["train"], store="rans"))
    for cut in range(4):
        target, calls = tmp_path / f"cut{cut}", 0

        def cut_short(path: Path, data: bytes, cut: int = cut) -> None:
            nonlocal calls
            calls += 1
            if calls == cut + 1:
                raise Killed
            publish(path, data)

        with monkeypatch.context() as patch:
            patch.setattr(ci2p_cache.shard, "publish", cut_short)
            with pytest.raises(Killed):
                convert_split(source, target, "train", store="rans")
        convert_split(source, target, "train", store="rans")
        assert files_of(target) == whole


def test_the_command_line_converts_to_an_archive_and_back(images: Path, tmp_path: Path) -> None:
    source = encode_folder(images, tmp_path / "int", on_error="skip")
    for target, store in (("archive", "rans"), ("again", "int")):
        done = call_ci2p("convert", source, target, "--store", store, cwd=tmp_path)
        assert done.returncode == 0 and "train: 12 images, 24 views" in done.stdout
        source = tmp_path / target
    assert files_of(tmp_path / "again") == files_of(tmp_path / "int")
    seen = call_ci2p("inspect", "archive", cwd=tmp_path)
    assert "integers, step 1, coded as rans" in seen.stdout
    assert call_ci2p("verify", "archive", cwd=tmp_path).returncode == 0


def test_a_record_holds_as_many_images_as_was_asked_for(images: Path, tmp_path: Path) -> None:
    """One a record is a sample an image; what is converted equals what is encoded that way, and training reads both."""

    def samples(cache: Path) -> list[dict[str, object]]:
        tars = sorted(map(str, (cache / "train").glob("*.tar")))
        return list(webdataset.WebDataset(tars, shardshuffle=False).decode())

    encoded = {
        number: encode_folder(
            images, tmp_path / f"of-{number}", format="webdataset", record_images=number, on_error="skip"
        )
        for number in (None, 1, 3)
    }
    assert [len(samples(encoded[number])) for number in (None, 1, 3)] == [
        4,
        12,
        6,
    ]  # shards of 4, 4, 4 and 1, one failed
    assert all(len(sample["json"]["keys"]) == 1 for sample in samples(encoded[1]))  # type: ignore[index]
    whole, single = (open_cache(encoded[number], "train") for number in (None, 1))
    assert whole.spec.record_images == 64 and whole.spec.values_id == single.spec.values_id
    views = [
        ViewReader(cache.split_dir, cache.manifest).read(cache.positions, np.zeros(cache.num_samples, np.int64))
        for cache in (whole, single)
    ]
    assert np.array_equal(*views)
    for split in SPLITS:
        convert_split(encoded[None], tmp_path / "there", split, record_images=1)
        convert_split(encoded[1], tmp_path / "kept", split, "webdataset", "int")
        convert_split(encoded[1], tmp_path / "back", split, record_images=64)
    assert files_of(tmp_path / "there") == files_of(tmp_path / "kept") == files_of(encoded[1])
    assert files_of(tmp_path / "back") == files_of(encoded[None])


def test_records_are_asked_for_where_there_are_some(images: Path, tmp_path: Path) -> None:
    folder = (
        "--dataset",
        "folder",
        "--data-dir",
        images,
        "--image-size",
        "32",
        "--on-error",
        "skip",
        "--device",
        "cpu",
    )
    refused = call_ci2p("encode", *folder, "--out", tmp_path / "zarr", "--record-images", "1", cwd=tmp_path)
    assert refused.returncode == 2 and "--record-images 1: a zarr has no records" in refused.stderr
    assert not (tmp_path / "zarr").exists()
    cache = encode_folder(images, tmp_path / "tars", format="webdataset", on_error="skip")
    other = call_ci2p(
        "encode",
        *folder,
        "--shard-size",
        "4",
        "--format",
        "webdataset",
        "--record-images",
        "2",
        "--out",
        cache,
        cwd=tmp_path,
    )
    assert other.returncode == 2 and "record_images is 64 there and 2 in this run (--record-images)" in other.stderr
    assert call_ci2p("convert", cache, tmp_path / "single", "--record-images", "1", cwd=tmp_path).returncode == 0
    assert open_cache(tmp_path / "single", "val").spec.record_images == 1
