"""Training an encoder: it learns, it resumes exactly, its files are what CompressAI and `encode` read."""

import dataclasses
import json
import os
import shutil
import signal
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import pipeline  # noqa: F401  (before compressai: it sees to it that torchvision imports)

pytest.importorskip("compressai", reason="fit-encoder needs the extra [compressai]")

# isort: split
from ci2p_cache.errors import InputError, WorkError
from pipeline.encode.codec import load_analysis
from pipeline.encode.fit.crops import crop_batches, random_crop
from pipeline.encode.fit.images import hash_names, list_images
from pipeline.encode.fit.loop import _Figures
from pipeline.encode.fit.quality import Quality, measure_quality
from pipeline.encode.fit.run import FitReport, fit_encoder
from pipeline.encode.fit.settings import FitSettings
from pipeline.encode.psnr import psnr
from pipeline.encode.whole_codec import new_codec
from pipeline.running.checkpoint_file import read_checkpoint, write_checkpoint
from pipeline.running.lock import Lock
from pipeline.running.signals import Ended, ending_by_signals
from tests.conftest import call_ci2p, encode_folder, files_of, run_ci2p, run_python, write_image

SMALL = FitSettings(steps=4, batch_size=2, crop_size=32, final_crop_size=48, precision="float32", lr=2e-4)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/a/, train/b/ with four pictures and val/ with two of odd sizes."""
    root = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(["train/a/0", "train/a/1", "train/b/2", "train/b/3"]):
        write_image(root / f"{name}.png", number)
    for number, size in enumerate([(190, 170), (192, 256)]):
        image = Image.open(root / f"train/a/{number}.png").resize(size, Image.Resampling.BICUBIC)
        (root / "val").mkdir(exist_ok=True)
        image.save(root / f"val/{number}.png")
    return root


def fit(pictures: Path, out: Path, settings: FitSettings = SMALL, **options: Any) -> FitReport:
    options = {"eval_dir": str(pictures / "val"), "device": "cpu", "compile_transforms": False} | options
    return fit_encoder(str(pictures / "train"), out, settings, **options)


def test_it_learns_rate_and_distortion_together(pictures: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, steps=40, lr=1e-3)
    torch.manual_seed(settings.seed)
    files = list_images(str(pictures / "val"), "--eval-dir")
    before = measure_quality(new_codec(), files, torch.device("cpu"))
    after = fit(pictures, tmp_path / "mine.pth.tar", settings).quality

    def loss(quality: Quality) -> float:
        return quality.bpp + settings.lmbda * 255**2 * 10 ** (-quality.psnr / 10)

    assert loss(after) < 0.8 * loss(before)


def test_both_files_hold_the_same_float16_weights_and_encode_reads_them(pictures: Path, tmp_path: Path) -> None:
    report = fit(pictures, tmp_path / "mine.safetensors")
    names = {load_analysis(str(tmp_path / f"mine{suffix}"))[1] for suffix in (".pth.tar", ".safetensors")}
    assert names == {report.weights_sha256}
    state = torch.load(tmp_path / "mine.pth.tar", weights_only=True)["state_dict"]
    assert all(torch.equal(t, t.half().float()) for name, t in state.items() if name.endswith((".weight", ".gamma")))
    halves = safetensors.torch.load_file(tmp_path / "mine.safetensors")
    assert halves["g_a.0.weight"].dtype == torch.float16 and set(halves) == set(state)
    card = (tmp_path / "mine.md").read_text()
    assert "lambda" not in card and report.weights_sha256 in card and "0.025 x 255^2" in card
    assert f"{report.quality.psnr:.2f} dB" in card


def test_compressai_s_own_evaluation_loads_it_and_agrees(pictures: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, steps=2)
    report = fit(pictures, tmp_path / "mine.pth.tar", settings, begin_from="bundled")
    finished = run_python(
        *("-c", "import pipeline, runpy; runpy.run_module('compressai.utils.eval_model', run_name='__main__')"),
        *("checkpoint", pictures / "val", "-a", "bmshj2018-factorized", "-p", tmp_path / "mine.pth.tar"),
    )
    assert finished.returncode == 0, finished.stderr
    results = json.loads(finished.stdout[finished.stdout.index("{") :])["results"]
    quality = report.quality
    assert results["psnr-rgb"][0] == pytest.approx(quality.psnr, abs=0.02)
    assert results["bpp"][0] == pytest.approx(quality.bpp, rel=0.02)


def test_killed_and_resumed_equals_never_killed(pictures: Path, tmp_path: Path) -> None:
    fit(pictures, tmp_path / "whole.pth.tar")
    for _ in range(SMALL.steps):
        fit(pictures, tmp_path / "parts.pth.tar", max_minutes=1e-9)  # one step a call
    parts, whole = (torch.load(tmp_path / f"{name}.pth.tar")["state_dict"] for name in ("parts", "whole"))
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    finished = files_of(tmp_path)
    fit(pictures, tmp_path / "parts.pth.tar")
    assert {name: data for name, data in files_of(tmp_path).items() if not name.endswith(".md")} == {
        name: data for name, data in finished.items() if not name.endswith(".md")
    }


def test_a_signal_ends_it_after_its_step(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched, ending_by_signals(), pytest.raises(Ended, match=r"again to continue$"):
        add = _Figures.add
        patched.setattr(_Figures, "add", lambda *given: os.kill(os.getpid(), signal.SIGTERM) or add(*given))
        fit(pictures, tmp_path / "parts.pth.tar")
    assert [file.name for file in tmp_path.iterdir()] == ["parts.ckpt"]
    for name in ("parts", "whole"):
        fit(pictures, tmp_path / f"{name}.pth.tar")
    assert (tmp_path / "parts.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_it_is_one_process_s_and_goes_on_from_the_checkpoint_before(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, checkpoint = tmp_path / "mine.pth.tar", tmp_path / "mine.ckpt"
    for _ in range(2):
        fit(pictures, out, max_minutes=1e-9)
    with (
        Lock(tmp_path / "mine.lock", work="x", way_out="y"),
        pytest.raises(
            InputError, match=r"mine: a training is being done by process \d+ on .*; wait for its end, or giv"
        ),
    ):
        fit(pictures, out)
    data = bytearray(checkpoint.read_bytes())
    data[-5000] ^= 1
    checkpoint.write_bytes(data)
    assert fit(pictures, out, max_minutes=1e-9).step == 2
    assert "mine.ckpt is damaged" in caplog.text and "going on from mine.previous.ckpt" in caplog.text
    fit(pictures, out)
    fit(pictures, tmp_path / "whole.pth.tar")
    assert (tmp_path / "mine.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert not list(tmp_path.glob("*.lock"))


def test_more_steps_may_be_asked_for_until_the_decay(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.pth.tar"
    fit(pictures, out, dataclasses.replace(SMALL, steps=20, warmup=0.0), max_minutes=1e-9)
    longer = dataclasses.replace(SMALL, steps=40, warmup=0.0)
    assert fit(pictures, out, longer, max_minutes=1e-9).step == 2
    short = dataclasses.replace(SMALL, steps=2, warmup=0.0)
    with pytest.raises(InputError, match="begun with steps 40, and this run has 2"):
        fit(pictures, out, short)


def test_other_settings_or_images_are_refused_by_name(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.pth.tar"
    fit(pictures, out, max_minutes=1e-9)
    with pytest.raises(InputError, match=r"begun with lmbda 0\.025, and this run has 0\.1"):
        fit(pictures, out, dataclasses.replace(SMALL, lmbda=0.1))
    with pytest.raises(InputError, match="begun with from random weights, and this run has"):
        fit(pictures, out, begin_from="bundled")
    with pytest.raises(
        InputError, match=r"begun with data-dir images of which none is in .*val; give the same --data-dir"
    ):
        fit_encoder(str(pictures / "val"), out, SMALL, eval_dir=str(pictures / "val"), device="cpu")


def test_a_training_that_explodes_stops_and_keeps_the_last_checkpoint(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.pth.tar"
    wild = dataclasses.replace(SMALL, lr=1e9, grad_clip=1e30, warmup=0.0)
    with pytest.raises(WorkError, match=r"no longer finite at step \d+; lower --lr"):
        fit(pictures, out, wild, begin_from="bundled")
    assert not list(tmp_path.glob("mine*"))


def test_crops_are_of_the_size_asked_for_and_repeat() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 100, 3), dtype=np.uint8))
    for scale in ((1.0, 1.0), (0.5, 0.5), (0.7, 1.4), (3.0, 3.0)):
        crops = [random_crop(image, 48, scale, np.random.default_rng(7)) for _ in range(2)]
        assert crops[0].shape == (48, 48, 3) and np.array_equal(*crops)
    # At scale 1 a crop is a piece of the picture, unchanged.
    crop = random_crop(image, 32, (1.0, 1.0), np.random.default_rng(1))
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(image), (32, 32, 3))[:, :, 0]
    assert any((windows == piece).all((2, 3, 4)).any() for piece in (crop, crop[:, ::-1]))


def test_psnr_is_that_of_its_definition() -> None:
    dark, light = torch.zeros(3, 8, 8), torch.full((3, 8, 8), 255.0)
    assert psnr(light, dark) == pytest.approx(0.0)
    assert psnr(dark + 1, dark) == pytest.approx(48.1308, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data-dir", "nowhere"), "--data-dir nowhere: there is no such folder"),
        (("--data-dir", "."), "too few to hold one in 100 out for evaluation; give --eval-dir"),
        (("--out", "mine.onnx"), r"--out mine.onnx: give a name that ends in .pth.tar or .safetensors"),
        (("--from", "gone.pth.tar"), "--from gone.pth.tar: no such file"),
        (("--from", "encoder.safetensors"), "--from encoder.safetensors holds an encoder alone"),
        (("--crop-size", "100"), "--crop-size 100: give a multiple of 16"),
        (("--scale", "2", "1"), "--scale 2 1: give two positive factors"),
        (("--steps", "0"), "--steps 0 must be a number above 0"),
        (("--lr", "-1"), "--lr -1.0 must be a number above 0"),
        (("--lr", "inf"), "--lr inf must be a number above 0"),
        (("--lmbda", "nan"), "--lmbda nan must be a number above 0"),
        (("--scale", "1", "inf"), "--scale 1 inf: give two positive factors"),
    ],
)
def test_wrong_wishes_are_refused_by_name(tmp_path: Path, arguments: tuple[str, str], message: str) -> None:
    write_image(tmp_path / "one.png", 0)
    state = safetensors.torch.load_file(Path("pipeline/encode/weights/factorized-prior.safetensors"))
    analysis = {name: tensor for name, tensor in state.items() if name.startswith("g_a.")}
    safetensors.torch.save_file(analysis, tmp_path / "encoder.safetensors")
    given = {"--data-dir": ".", "--out": "mine.pth.tar", "--eval-dir": ".", "--steps": "2"}
    if arguments[0] == "--data-dir":
        del given["--eval-dir"]
    words = [word for name, value in given.items() if name != arguments[0] for word in (name, value)]
    before = set(files_of(tmp_path))
    refused = call_ci2p("fit-encoder", *words, *arguments, "--device", "cpu", cwd=tmp_path)
    assert refused.returncode == 2 and message.replace("\\", "") in refused.stderr.replace("\\", "")
    assert set(files_of(tmp_path)) == before


@pytest.fixture
def damaged(pictures: Path, tmp_path: Path) -> Path:
    """train/ with two good pictures and two that are none, which the first step draws; val/ with one that is none."""
    root = tmp_path / "damaged"
    shutil.copytree(pictures, root)
    (root / "train/b/2.png").write_bytes((root / "train/b/3.png").read_bytes()[:60])
    (root / "train/b/3.png").write_bytes(b"no image")
    (root / "val/2.png").write_bytes(b"no image")
    return root


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named(tmp_path: Path, workers: int) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "x.png").write_bytes(b"no image")
    images = list_images(str(tmp_path / "train"), "--data-dir")
    for on_error, message in (
        (
            "stop",
            r"^/.*train/x.png: not an image; mend or remove it, and run the same command again",
        ),
        (
            "skip",
            r"^none of 1 image of .*train can be used \(the last, x.png: not an image\); mend them",
        ),
    ):
        with pytest.raises(WorkError, match=message):
            list(crop_batches(images, SMALL, first_step=0, workers=workers, pin=False, on_error=on_error))


def test_under_skip_another_draw_takes_a_bad_image_s_place(damaged: Path) -> None:
    def batches(first_step: int, folder: Path) -> list[tuple[torch.Tensor, dict[int, str]]]:
        images = list_images(str(folder), "--data-dir")
        return list(crop_batches(images, settings, first_step=first_step, workers=0, pin=False, on_error="skip"))

    settings = dataclasses.replace(SMALL, steps=12, final_crop_size=32)
    whole = batches(0, damaged / "train")
    assert all(pixels.shape == (2, 3, 32, 32) for pixels, _ in whole)
    failures = {index: reason for _, failed in whole for index, reason in failed.items()}
    assert set(failures) == {2, 3} and failures[3] == "not an image"
    for (pixels, failed), (again, failed_again) in zip(whole[5:], batches(5, damaged / "train"), strict=True):
        assert torch.equal(pixels, again) and failed == failed_again
    # A step that draws good images alone is what it would be if all were good.
    write_image(damaged / "train/b/2.png", 2)
    write_image(damaged / "train/b/3.png", 3)
    mended = batches(0, damaged / "train")
    untouched = [step for step, (_, failed) in enumerate(whole) if not failed]
    assert untouched and all(torch.equal(whole[step][0], mended[step][0]) for step in untouched)


def test_skip_lists_what_was_left_out_and_resumes_exactly(damaged: Path, tmp_path: Path) -> None:
    options = {"eval_dir": str(damaged / "val"), "on_error": "skip"}
    report = fit(damaged, tmp_path / "whole.pth.tar", **options)
    assert set(report.failures) == {"train/b/2.png", "train/b/3.png", "val/2.png"}
    measured = report.measured()
    assert measured["num_failed"] == 3 and measured["num_images"] == 2
    assert {"key": "val/2.png", "reason": "not an image"} in measured["failures"]
    assert "left out, since they cannot be used: 3 images: " in report.lines()[1]
    assert "(2 of which could not be used)" in (tmp_path / "whole.md").read_text()
    for _ in range(SMALL.steps):
        parts = fit(damaged, tmp_path / "parts.pth.tar", max_minutes=1e-9, **options)
    assert (parts.weights_sha256, parts.failures) == (report.weights_sha256, report.failures)


def test_what_cannot_be_used_ends_the_training_until_it_is_mended(damaged: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.pth.tar"
    fit(damaged, out, max_minutes=1e-9, on_error="skip", eval_dir=str(damaged / "train/a"))
    with pytest.raises(WorkError, match=r"train/b/\d.png: .*; mend or remove it, and run the same command again"):
        fit(damaged, out, eval_dir=str(damaged / "train/a"))
    write_image(damaged / "train/b/2.png", 2)
    write_image(damaged / "train/b/3.png", 3)
    with pytest.raises(WorkError, match=r"val/2.png: not an image; mend or remove it"):
        fit(damaged, out, eval_dir=str(damaged / "val"))
    (damaged / "val/2.png").unlink()
    report = fit(damaged, out, eval_dir=str(damaged / "val"))
    assert report.finished and report.failures["train/b/3.png"] == "not an image, mended since"


def test_images_that_have_gone_or_are_new(pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path, dirs_exist_ok=True)
    out = tmp_path / "mine.pth.tar"
    fit(tmp_path, out, max_minutes=1e-9)
    (tmp_path / "train/a/1.png").rename(tmp_path / "kept.png")
    with pytest.raises(
        WorkError, match=r"1 image is gone since the checkpoint .*mine.ckpt \(a/1.png\): put it back, or u"
    ):
        fit(tmp_path, out)
    report = fit(tmp_path, out, on_error="skip")
    assert report.finished and report.failures == {"train/a/1.png": "gone"}
    assert fit(tmp_path, out).finished  # nothing is left to do, so nothing is missing
    for name in ("x", "y", "z", "v"):
        write_image(tmp_path / f"train/c/{name}.png", 5)
    with pytest.raises(InputError) as caught:
        fit(tmp_path, out, on_error="skip")
    assert str(caught.value) == (
        f"--data-dir {tmp_path}/train: 4 images are new since the checkpoint {tmp_path}/mine.ckpt (c/v.png, c/x.png, "
        "c/y.png, ...): move them out, or give another --out"
    )


def test_held_out_images_are_those_of_the_first_run(tmp_path: Path) -> None:
    write_image(tmp_path / "train/000.png", 0)
    for number in range(1, 100):
        shutil.copy(tmp_path / "train/000.png", tmp_path / f"train/{number:03d}.png")
    out = tmp_path / "mine.pth.tar"
    settings = dataclasses.replace(SMALL, steps=2)
    fit(tmp_path, out, settings, eval_dir=None, max_minutes=1e-9)
    with pytest.raises(
        InputError, match=r"begun with evaluation on images held out of --data-dir, and this run has on"
    ):
        fit(tmp_path, out, settings, eval_dir=str(tmp_path / "train"))
    held_out = int(np.random.default_rng(0).choice(100, 1, replace=False)[0])
    gone = (held_out + 1) % 100
    (tmp_path / f"train/{gone:03d}.png").unlink()  # too few to hold one out of, were it drawn anew
    report = fit(tmp_path, out, settings, eval_dir=None, on_error="skip")
    assert report.finished and report.failures == {f"train/{gone:03d}.png": "gone"}
    (tmp_path / f"train/{held_out:03d}.png").unlink()
    with pytest.raises(WorkError, match=rf"train/{held_out:03d}.png: gone; put it back, or use --on-error skip"):
        fit(tmp_path, out, settings, eval_dir=None)
    with pytest.raises(WorkError, match=r"none of 1 image to evaluate on can be used \(train/\d+.png: gone\)"):
        fit(tmp_path, out, settings, eval_dir=None, on_error="skip")


def test_a_checkpoint_that_has_a_hash_of_the_names_alone_goes_on(pictures: Path, tmp_path: Path) -> None:
    whole = fit(pictures, tmp_path / "whole.pth.tar")
    out, checkpoint = tmp_path / "mine.pth.tar", tmp_path / "mine.ckpt"
    fit(pictures, out, max_minutes=1e-9)
    content = read_checkpoint(checkpoint, format_version=2)
    assert content is not None
    names = zlib.decompress(content.pop("names")).decode().split("\0")
    assert names == ["a/0.png", "a/1.png", "b/2.png", "b/3.png"]
    del content["failures"]
    content["source"] = {"data-dir images": hash_names(names[1:]), "from": content["source"]["from"]}
    write_checkpoint(checkpoint, content, format_version=1)
    with pytest.raises(InputError, match=r"begun with data-dir images [0-9a-f]{16}, and this run has 193b792808919925"):
        fit(pictures, out)
    content["source"]["data-dir images"] = "193b792808919925"  # as version 1 hashed them
    write_checkpoint(checkpoint, content, format_version=1)
    assert fit(pictures, out).weights_sha256 == whole.weights_sha256


def test_names_that_are_not_utf8_and_files_that_are_no_files(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    shutil.copy(pictures / "train/a/0.png", folder / os.fsdecode(b"\xe9t\xe9.png"))
    (folder / os.fsdecode(b"b\xe9.png")).write_bytes(b"no image")
    os.mkfifo(folder / "pipe.png")
    words = ("--data-dir", str(folder), "--eval-dir", str(folder), "--out", "mine.pth.tar", "--steps", "3")
    words += ("--batch-size", "2", "--crop-size", "32", "--final-crop-size", "32", "--device", "cpu", "--no-compile")
    for more in (("--max-minutes", "1e-9"), ()):
        done = call_ci2p("fit-encoder", *words, *more, "--workers", "0", "--on-error", "skip", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "left out: fifos, sockets and devices (1: " in done.stderr
        assert r"left out, since they cannot be used: 1 image: caf\xe9/b\xe9.png (not an image)" in done.stdout
    assert r"`caf\xe9`" in (tmp_path / "mine.md").read_text()
    for checkpoint in tmp_path.glob("mine*.ckpt"):
        checkpoint.unlink()
    refused = call_ci2p("fit-encoder", *words, "--workers", "0", cwd=tmp_path)
    assert refused.returncode == 2 and "fifos, sockets and devices (1: " in refused.stderr
    (folder / "pipe.png").unlink()
    refused = call_ci2p("fit-encoder", *words, "--workers", "0", cwd=tmp_path)
    assert refused.returncode == 1 and r"caf\xe9/b\xe9.png: not an image; mend or remove it" in refused.stderr


def test_a_cache_is_made_with_it_and_never_mixed(image_folder: Path, pictures: Path, tmp_path: Path) -> None:
    fit(pictures, tmp_path / "mine.pth.tar", dataclasses.replace(SMALL, steps=1), begin_from="bundled")
    cache = encode_folder(image_folder, tmp_path / "cache", weights=str(tmp_path / "mine.safetensors"))
    with pytest.raises(InputError, match=r"weights_sha256 is .* in this run \(--weights\)"):
        encode_folder(image_folder, cache, weights="bundled")


def test_the_command_trains_with_decoding_processes_and_reports(pictures: Path, tmp_path: Path) -> None:
    finished = run_ci2p(
        *("fit-encoder", "--data-dir", pictures / "train", "--eval-dir", pictures / "val", "--out", "mine.pth.tar"),
        *("--steps", "20", "--batch-size", "1", "--crop-size", "32", "--final-crop-size", "32", "--from", "bundled"),
        *("--device", "cpu", "--no-compile", "--workers", "1", "--json", "fit.json"),
        cwd=tmp_path,
    )
    assert finished.returncode == 0, finished.stderr
    measured = json.loads((tmp_path / "fit.json").read_text())
    assert measured["finished"] and measured["steps"] == 20 and measured["num_images"] == 2
    assert f"{measured['psnr']:.2f} dB at {measured['bpp']:.3f} bit/pixel on 2 images" in finished.stdout
    assert "fit-encoder: 20/20 steps" in finished.stderr and " dB" in finished.stderr
    assert {path.name for path in tmp_path.iterdir()} == {
        *("mine.pth.tar", "mine.safetensors", "mine.md", "mine.ckpt", "fit.json")
    }
