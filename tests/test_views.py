"""Views beyond plain and mirror: caches with crops keep every promise, and nothing changes for caches without."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
import zarr

import ci2p_cache.manifest
import ci2p_cache.marker
import ci2p_cache.shard
from ci2p_cache import codecs, order, tar_store
from ci2p_cache.cache import open_cache
from ci2p_cache.convert import convert_split
from ci2p_cache.errors import InputError
from ci2p_cache.loader import BatchLoader
from ci2p_cache.publish import publish
from ci2p_cache.spec import CacheSpec, latent_difference, refuse_mixture
from ci2p_cache.verify import verify_split
from ci2p_cache.views import describe_views, num_crops, view_names, whole_views
from pipeline.encode.crops import crops_of, load_renderings
from pipeline.encode.datasets import open_dataset
from pipeline.encode.encoder import load_encoder
from pipeline.evaluate.predictions import predict_cache
from tests.conftest import call_ci2p, encode_folder, files_of, write_image_folder
from tests.test_encode import Killed
from tests.test_evaluate import Brightness
from tests.test_preprocess import SMALL
from tests.test_stores import all_views

SIX = ("plain", "mirror", "crop0", "crop0-mirror", "crop1", "crop1-mirror")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 training and 6 validation images."""
    return write_image_folder(tmp_path_factory.mktemp("images"), train=4, val=2)


@pytest.fixture(scope="module")
def cropped(cache_format: str, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of `images` with two crops, in each format. Not to be changed."""
    return encode_folder(images, tmp_path_factory.mktemp("cropped") / cache_format, format=cache_format, crops=2)


@pytest.fixture(scope="module")
def uncropped(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without crops. Not to be changed."""
    return encode_folder(images, tmp_path_factory.mktemp("uncropped") / "cache")


def test_names() -> None:
    assert view_names("flip", 2) == SIX
    assert view_names("plain", 2) == ("plain", "crop0", "crop1")
    for flips, whole in (("flip", ("plain", "mirror")), ("plain", ("plain",))):
        for crops in (0, 1, 12):
            views = view_names(flips, crops)  # type: ignore[arg-type]
            assert whole_views(views) == views[: len(whole)] == whole
            assert num_crops(views) == crops and len(set(views)) == len(whole) * (1 + crops)
    assert describe_views(("plain", "mirror")) == "plain + mirror"
    assert describe_views(SIX) == "plain + mirror + 2 crops with mirror images"
    assert describe_views(("plain", "crop0")) == "plain + 1 crop"


def test_a_round_goes_from_picture_to_picture() -> None:
    """Neighbouring epochs show another picture, and no picture comes back before all were seen."""
    for crops in (1, 2, 5, 10):
        views = view_names("flip", crops)
        shown = np.stack(
            [order.view_choice(np.arange(40), len(views), seed=3, epoch=epoch) for epoch in range(2 * len(views))]
        )
        for begin in range(len(views)):
            assert all(
                len(set(pictures.tolist())) == 1 + crops for pictures in (shown[begin : begin + 1 + crops] // 2).T
            )
        # Mirrored and not take turns, but for the two seams of a round when the pictures are even in number.
        turns = (np.diff(shown[: len(views) + 1] % 2, axis=0) != 0).sum(axis=0)
        assert set(turns.tolist()) == {len(views) if crops % 2 == 0 else len(views) - 2}


def test_every_view_of_a_cache_with_crops_is_trained_on(cropped: Path) -> None:
    split = open_cache(cropped, "train")
    stored = codecs.dequantise(all_views(split), "int", 1.0)
    place_of = {position: place for place, position in enumerate(split.positions.tolist())}
    seen: dict[int, list[int]] = {position: [] for position in place_of}
    loader = BatchLoader(split, batch_size=4, seed=1)
    for epoch in range(6):
        views = order.view_choice(np.arange(12), 6, 1, epoch)
        for batch in loader.epoch(epoch):
            for position, latents in zip(batch.positions.tolist(), batch.latents.numpy(), strict=True):
                place = place_of[position]
                assert np.array_equal(latents, stored[place, views[place]])
                seen[position].append(int(views[place]))
    assert all(sorted(views) == list(range(6)) for views in seen.values())


def test_only_training_images_are_cropped(cropped: Path) -> None:
    train, val = open_cache(cropped, "train"), open_cache(cropped, "val")
    assert train.spec.views == SIX and train.spec.crop_scale == (0.25, 1.0)
    assert val.spec.views == SIX[:2] and val.spec.crop_scale is None
    assert (train.manifest.num_images, train.manifest.num_views) == (12, 72)
    assert (val.manifest.num_images, val.manifest.num_views) == (6, 12)
    refuse_mixture(train.spec, val.spec)
    for split in ("train", "val"):
        assert verify_split(cropped, split) == []


def test_a_stored_crop_is_the_latent_of_its_pixels(cropped: Path, images: Path) -> None:
    split = open_cache(cropped, "train")
    items = open_dataset("folder", str(images), splits=["train"], val_fraction=None, seed=0)["train"]
    crops, encoder = crops_of(split.spec), load_encoder("bundled", "cpu")
    assert (crops.count, crops.scale, crops.seed) == (2, (0.25, 1.0), 0)
    markers = sorted((cropped / "train" / "shards").iterdir())
    keys = [key for marker in markers for key in json.loads(marker.read_text())["keys"]]
    for position, stored_VCHW in zip(split.positions.tolist(), all_views(split), strict=True):
        item = list(items.keys).index(keys[position])
        renderings = torch.from_numpy(load_renderings(items.read_bytes(item), keys[position], SMALL, crops))
        expected = encoder.views(renderings, ("plain", "mirror")).flatten(0, 1).numpy()
        difference = codecs.dequantise(stored_VCHW, "int", 1.0) - np.rint(expected)
        assert np.mean(difference != 0) < 1e-3  # values on the edge of two integers: another batch, another sum


def test_the_whole_views_are_those_of_a_cache_without_crops(cropped: Path, uncropped: Path) -> None:
    ours, theirs = (open_cache(path, "train") for path in (cropped, uncropped))
    assert np.array_equal(all_views(ours)[:, :2], all_views(theirs))
    assert latent_difference(ours.spec, theirs.spec) is None
    for tta in (False, True):
        scores = [
            torch.cat([
                batch.probabilities
                for batch in predict_cache(Brightness(), split, batch_size=5, device=torch.device("cpu"), tta=tta)
            ])
            for split in (ours, theirs)
        ]  # fmt: skip
        assert torch.equal(*scores)


def test_other_readers_see_all_views(cropped: Path, cache_format: str) -> None:
    split = open_cache(cropped, "train")
    if cache_format == "zarr":
        group = zarr.open_group(cropped / "train" / "latents.zarr", mode="r")
        assert list(group.attrs["views"]) == list(SIX)
        assert np.array_equal(group["latents"][:], all_views(split))
    else:
        tars = sorted(map(str, (cropped / "train").glob("*.tar")))
        stage = tar_store.images_of_records(split.spec)
        samples = webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).compose(stage)
        assert np.array_equal(np.stack([sample["latents"] for sample in samples]), all_views(split))


def test_converted_equals_encoded(cropped: Path, cache_format: str, images: Path, tmp_path: Path) -> None:
    other = {"zarr": "webdataset", "webdataset": "zarr"}[cache_format]
    for split in ("train", "val"):
        convert_split(cropped, tmp_path / "converted", split, other)  # type: ignore[arg-type]
    assert files_of(tmp_path / "converted") == files_of(
        encode_folder(images, tmp_path / "encoded", format=other, crops=2)
    )


def test_c4_a_crash_at_any_write_and_a_second_run_equal_one_run(
    cropped: Path, cache_format: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crops come out the same on either side of the cut, which the second run's worker processes cannot move."""
    whole = {name: data for name, data in files_of(cropped).items() if name.startswith("train/")}
    settings = {"format": cache_format, "crops": 2, "splits": ["train"]}
    for cut in range(7):  # three shards, their markers, the manifest
        cache, calls = tmp_path / f"cut{cut}", 0

        def cut_short(path: Path, *parts: bytes, cut: int = cut) -> None:
            nonlocal calls
            calls += 1
            if calls == cut + 1:
                raise Killed
            publish(path, *parts)

        with monkeypatch.context() as patch:
            for module in (ci2p_cache.shard, ci2p_cache.marker, ci2p_cache.manifest):
                patch.setattr(module, "publish", cut_short)
            with pytest.raises(Killed):
                encode_folder(images, cache, **settings)
        assert files_of(encode_folder(images, cache, workers=1, **settings)) == whole


def test_c1_ranks_write_the_same_cache(
    cropped: Path, cache_format: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        encode_folder(images, tmp_path / "cache", format=cache_format, crops=2)
    assert files_of(tmp_path / "cache") == files_of(cropped)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"crops": 3}, r"views is .*--views and --crops"),
        ({"crops": 0}, r"views is .*--views and --crops"),
        ({"crops": 2, "crop_scale": (0.5, 1.0)}, r"crop_scale is \(0.25, 1.0\) there and \(0.5, 1.0\) .*--crop-scale"),
        ({"views": "plain", "splits": ["val"]}, r"views is .*--views and --crops"),
    ],
)
def test_c3_other_crops_into_the_same_folder_are_refused(
    cropped: Path, cache_format: str, images: Path, changed: dict[str, object], message: str
) -> None:
    before = files_of(cropped)
    with pytest.raises(InputError, match=message):
        encode_folder(images, cropped, format=cache_format, **changed)
    assert files_of(cropped) == before


def test_splits_may_be_encoded_one_by_one(cropped: Path, cache_format: str, images: Path, tmp_path: Path) -> None:
    for split, crops in (("val", 0), ("train", 2), ("val", 2)):
        encode_folder(images, tmp_path / "cache", format=cache_format, splits=[split], crops=crops)
    assert files_of(tmp_path / "cache") == files_of(cropped)


def test_a_cache_without_crops_is_what_it_was(uncropped: Path) -> None:
    """The golden fingerprint is of the version that knew no crops."""
    old = {
        "format_version": 1, "dataset": "folder", "split": "train", "items_sha256": "0" * 64, "image_size": 256,
        "short_edge": 292, "resize_mode": "crop", "interpolation": "bicubic", "encoder": "bmshj2018_factorized",
        "weights_sha256": "1" * 64, "views": ["plain", "mirror"], "format": "zarr", "store": "int", "step": 1.0,
        "shard_size": 1024, "seed": 0,
    }  # fmt: skip
    spec = CacheSpec.model_validate(old)
    assert spec.spec_id == "bff550d9617e8183"
    assert spec.model_dump(mode="json") == old and json.loads(spec.model_dump_json()) == old
    with_crops = spec.model_copy(update={"views": SIX, "crop_scale": (0.25, 1.0)})
    assert CacheSpec.model_validate_json(with_crops.model_dump_json()) == with_crops
    others = [with_crops.model_copy(update={"crop_scale": (0.08, 1.0)}), spec, with_crops]
    assert len({other.spec_id for other in others}) == 3
    for name, data in files_of(uncropped).items():
        assert b"crop_scale" not in data, name


def test_the_command_line_reports_what_it_stored(images: Path, tmp_path: Path) -> None:
    arguments = ("encode", "--dataset", "folder", "--data-dir", images, "--out", "cache", "--image-size", "64")
    arguments = (*arguments, "--device", "cpu", "--workers", "0", "--store", "float16")
    for options, message in (
        (("--crop-scale", "0.5", "1"), "--crop-scale 0.5 1 is for crops; give --crops K too"),
        (("--crops", "1", "--crop-scale", "1", "0.5"), "--crop-scale 1 0.5: give the least and the largest share"),
    ):
        refused = call_ci2p(*arguments, *options, cwd=tmp_path)
        assert refused.returncode == 2 and message in refused.stderr
        assert not (tmp_path / "cache").exists()
    done = call_ci2p(*arguments, "--crops", "1", "--crop-scale", "0.5", "1", "--json", "encode.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "train: 12 images, 48 views (plain + mirror + 1 crop with mirror images)" in done.stdout
    assert "val: 6 images, 12 views (plain + mirror)" in done.stdout
    for measured in json.loads((tmp_path / "encode.json").read_text()).values():
        assert measured["bytes_per_view"] == measured["bytes_total"] / measured["num_views"]
    arguments = ("inspect", "cache", "--images", "seen.png", "--split", "train", "--count", "5", "--data-dir", images)
    seen = call_ci2p(*arguments, "--device", "cpu", "--json", "seen.json", cwd=tmp_path)
    assert seen.returncode == 0, seen.stderr
    assert "1 crop with mirror images (50 to 100 % of the area)" in seen.stdout
    near = json.loads((tmp_path / "seen.json").read_text())["train"]["psnr"]
    # Soft pictures decode well; against the pixels of another view, PSNR would be under 15 dB.
    assert set(near) == {"plain", "mirror", "crop0", "crop0-mirror"} and min(near.values()) > 25
