"""Pixel baselines: the same images in the same order as a cache, the same loop, and an evaluation of their own."""

import json
import multiprocessing
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from ci2p_cache.errors import InputError, WorkError
from pipeline.baselines.pixel_spec import PixelSpec
from pipeline.baselines.pixels import PixelData, open_pixel_data
from pipeline.encode.crops import Crops, load_crop
from pipeline.encode.encoder import load_encoder
from pipeline.train.data import Share, open_training_data
from tests.conftest import CLASSES, call_ci2p, write_image_folder

ALONE = Share(0, 1, torch.device("cpu"))
SMALL = ("--image-size", "32", "--device", "cpu", "--workers", "0")


def pixel_data(folder: Path, **settings: object) -> PixelData:
    return open_pixel_data("folder", str(folder), **({"workers": 0, "image_size": 32} | settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("flip", [True, False])
def test_batch_for_batch_the_pixels_are_those_behind_the_cache_s_latents(
    image_folder: Path, zarr_cache: Path, flip: bool
) -> None:
    pixels = pixel_data(image_folder).train_batches(ALONE, batch_size=5, seed=3, flip=flip)
    latents = open_training_data(zarr_cache).train_batches(ALONE, batch_size=5, seed=3, flip=flip)
    assert pixels.steps_per_epoch == latents.steps_per_epoch == 4
    transform = load_encoder("bundled", "cpu").transform
    for epoch in range(2):
        for ours, theirs in zip(pixels.epoch(epoch), latents.epoch(epoch), strict=True):
            assert ours.latents.shape == (5, 3, 32, 32) and ours.latents.min() >= 0 and ours.latents.max() <= 1
            assert torch.equal(ours.labels, theirs.labels)
            with torch.inference_mode():
                changed = transform(ours.latents).round() != theirs.latents
            assert changed.float().mean() < 1e-3  # a batch of another size may round the last bit otherwise


def test_pixels_from_memory_and_from_files_are_the_same(image_folder: Path) -> None:
    batches = [
        list(
            pixel_data(image_folder, resident=resident)
            .train_batches(ALONE, batch_size=4, seed=1, flip=True)
            .epoch(2, 1)
        )
        for resident in ("cpu", "off")
    ]
    assert len(batches[0]) == len(batches[1]) == 4
    for ours, theirs in zip(*batches, strict=True):
        assert torch.equal(ours.latents, theirs.latents) and torch.equal(ours.labels, theirs.labels)


def test_fresh_crops_are_drawn_by_seed_epoch_and_image_alone(image_folder: Path) -> None:
    shown = {"crops": "fresh", "crop_scale": (0.3, 0.6), "augment": "randaugment"}
    data = pixel_data(image_folder, **shown)
    batches = data.train_batches(ALONE, batch_size=4, seed=5, flip=False)
    whole = [batch.latents for batch in batches.epoch(2)]
    again = pixel_data(image_folder, workers=1, **shown).train_batches(ALONE, batch_size=4, seed=5, flip=False)
    assert torch.equal(torch.cat(whole[2:]), torch.cat([batch.latents for batch in again.epoch(2, 2)]))
    (samples, _), *_ = batches.order.epoch(2)
    item = int(batches.source.sample_to_item[samples[0]])
    key, crops = data.train.keys[item], Crops(1, (0.3, 0.6), 5, "randaugment")
    drawn = load_crop(data.train.read_bytes(item), key, data.pixel_spec.preprocessing, crops, 2)
    assert torch.equal(whole[0][0], torch.tensor(drawn) / 255)
    others = [
        data.train_batches(ALONE, batch_size=21, seed=seed, flip=False).epoch(epoch) for seed, epoch in ((5, 3), (6, 2))
    ]
    for other in others:
        assert not torch.equal(next(other).latents.sum(0), torch.cat(whole).sum(0))
    assert data.val_batches(ALONE, batch_size=4).resident is not None and batches.resident is None
    assert data.fingerprint != pixel_data(image_folder).fingerprint
    assert PixelSpec.model_validate(data.spec).crop_scale == (0.3, 0.6) and "crops" not in pixel_data(image_folder).spec


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"crop_scale": (0.5, 1.0)}, "--crop-scale 0.5 1 is for crops; give --crops fresh too"),
        ({"augment": "authors"}, "--augment authors is of crops, .*; give --crops fresh too"),
        ({"crops": "fresh", "crop_scale": (0.0, 1.0)}, "--crop-scale 0 1: give the least and the largest share"),
        ({"crops": "fresh", "resident": "cpu"}, "--resident cpu and --crops fresh: .*; use --resident auto"),
    ],
)
def test_crops_that_cannot_be_are_refused(image_folder: Path, settings: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        pixel_data(image_folder, **settings)


def test_the_decoding_processes_go_on_into_the_next_epoch(image_folder: Path) -> None:
    settings = {"workers": 1, "crops": "fresh"}
    batches = pixel_data(image_folder, **settings).train_batches(ALONE, batch_size=4, seed=5, flip=True)
    seen, processes = [], []
    for epoch in (1, 2, 4):
        seen += [batch.latents for batch in batches.epoch(epoch)]
        processes.append({process.pid for process in multiprocessing.active_children()})
    assert processes[0] == processes[1] != processes[2]
    anew = pixel_data(image_folder, **settings | {"workers": 0}).train_batches(ALONE, batch_size=4, seed=5, flip=True)
    assert torch.equal(
        torch.cat(seen), torch.cat([batch.latents for epoch in (1, 2, 4) for batch in anew.epoch(epoch)])
    )
    del batches
    assert not processes[2] & {process.pid for process in multiprocessing.active_children()}


@pytest.mark.parametrize("settings", [{"resident": "cpu"}, {"resident": "off", "workers": 1}])
def test_an_epoch_that_is_left_leaves_no_thread_and_no_process(image_folder: Path, settings: dict[str, object]) -> None:
    before = {*threading.enumerate()}, {*multiprocessing.active_children()}
    batches = pixel_data(image_folder, **settings).train_batches(ALONE, batch_size=2, seed=0, flip=True)
    epoch = batches.epoch(0)
    first = next(epoch)
    del epoch
    assert len(first.labels) == 2
    for thread in {*threading.enumerate()} - before[0]:
        assert not thread.name.startswith("ci2p")
        thread.join(30)  # multiprocessing's own, which sent the processes their work, ends by itself
        assert not thread.is_alive()
    assert {*multiprocessing.active_children()} <= before[1]


def test_t2_ranks_share_every_global_batch_and_the_validation_images(image_folder: Path) -> None:
    data = pixel_data(image_folder)
    whole = next(iter(data.train_batches(ALONE, batch_size=6, seed=0, flip=True).epoch(0)))
    ranks = [Share(rank, 2, ALONE.device) for rank in range(2)]
    halves = [next(iter(data.train_batches(rank, batch_size=6, seed=0, flip=True).epoch(0))) for rank in ranks]
    merged = torch.stack([half.latents for half in halves], dim=1).flatten(0, 1)
    assert torch.equal(merged, whole.latents)
    seen = [batch.labels for rank in ranks for batch in data.val_batches(rank, batch_size=4).epoch(0)]
    assert sorted(torch.cat(seen).tolist()) == sorted(np.asarray(data.val.labels).tolist())


def test_the_fingerprint_follows_images_and_preprocessing_and_not_the_folder(
    image_folder: Path, tmp_path: Path
) -> None:
    ours = pixel_data(image_folder).fingerprint
    assert pixel_data(write_image_folder(tmp_path / "copy")).fingerprint == ours
    assert pixel_data(image_folder, short_edge=40).fingerprint != ours
    assert pixel_data(write_image_folder(tmp_path / "fewer", train=6)).fingerprint != ours


def test_an_image_that_cannot_be_decoded_stops_the_baseline(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "images")
    (folder / "train" / "red" / "000.png").write_bytes(b"no picture")
    with pytest.raises(WorkError, match="image red/000: not an image; mend it, or use --on-error skip"):
        pixel_data(folder).train_batches(ALONE, batch_size=4, seed=0, flip=True)


def test_images_that_do_not_fit_in_memory_are_refused_or_read_from_files(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.baselines.pixels.resident_limit_bytes", lambda: 1000.0)
    assert pixel_data(image_folder).val_batches(ALONE, batch_size=4).resident is None
    with pytest.raises(InputError, match=r"--resident cpu needs .* use --resident off"):
        pixel_data(image_folder, resident="cpu").val_batches(ALONE, batch_size=4)


def test_a_baseline_is_trained_evaluated_and_asked(image_folder: Path, tmp_path: Path) -> None:
    train = ("baseline", "--model", "vit_tiny_p32", "--data-dir", str(image_folder), *SMALL, "--epochs", "1")
    finished = call_ci2p(*train, "--batch-size", "8", "--json", "train.json", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    run = tmp_path / "runs" / "vit_tiny_p32-images0-0"
    measured = json.loads((tmp_path / "train.json").read_text())
    assert Path(measured["run"]) == run.relative_to(tmp_path) and measured["epochs"] == 1

    reports = {}
    for name, where in {"own": (), "folder": ("--images", str(image_folder)), "tta": ("--tta",)}.items():
        finished = call_ci2p(
            "eval", *where, "--device", "cpu", "--workers", "0", "--json", f"{name}.json", cwd=tmp_path
        )
        assert finished.returncode == 0, finished.stderr
        reports[name] = json.loads((tmp_path / f"{name}.json").read_text())
    assert reports["own"]["num_images"] == 9 and reports["own"]["top1"] == measured["final_top1"]
    assert reports["own"]["confusion"] == reports["folder"]["confusion"]
    image = image_folder / "val" / "red" / "000.png"
    asked = call_ci2p("predict", str(image), "--device", "cpu", "--json", "-", cwd=tmp_path)
    (shares,) = json.loads(asked.stdout).values()
    assert set(shares) == set(CLASSES) and sum(shares.values()) == pytest.approx(1, abs=1e-5)

    for wrong, way_out in {
        ("eval", "--shards", "caches/x"): "reads pixels; give --images DIR",
        ("eval", "--weights", "zoo"): "reads pixels and needs no encoder",
        (*train, "--batch-size", "4"): "batch_size is 8 there and 4 in this command",
        (*train, "--model", "ci2p_vit_tiny"): "reads latents, and these are pixels [3, 32, 32]",
        (*train, "--set", "window=2"): "window = 2 is for latents",
    }.items():
        refused = call_ci2p(*wrong, cwd=tmp_path)
        assert refused.returncode == 2 and way_out in refused.stderr, refused.stderr
