"""Looking through a cache: the pictures are those that the latents stand for."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from pipeline.encode.codec import BUNDLED_WEIGHTS, load_analysis, load_synthesis
from pipeline.encode.preprocess import load_pixels, preprocessing
from tests.conftest import call_ci2p, encode_folder, files_of


@pytest.fixture(scope="module")
def home(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache of `image_folder` at 64 pixels, in which every latent is kept in float16."""
    root = tmp_path_factory.mktemp("gallery")
    encode_folder(image_folder, root / "cache", image_size=64, store="float16")
    return root


def test_a_picture_is_the_decoded_latent_with_its_label(home: Path, image_folder: Path) -> None:
    seen = call_ci2p("inspect", "cache", "--images", "one.png", "--count", "1", "--device", "cpu", cwd=home)
    assert seen.returncode == 0, seen.stderr
    assert "one.png: 1 image decoded" in seen.stdout and "PSNR" not in seen.stdout
    sheet = np.asarray(Image.open(home / "one.png").convert("RGB"))
    label, key = json.loads((home / "cache/val/shards/000000.json").read_text())["keys"][0].split("/")
    pixels = torch.from_numpy(
        load_pixels((image_folder / "val" / label / f"{key}.png").read_bytes(), preprocessing(64))
    )
    with torch.inference_mode():
        latents = load_analysis("bundled")[0](pixels[None].float() / 255)
        expected = (load_synthesis("bundled")[0](latents) * 255).clamp(0, 255).round()[0]
    drawn = sheet[6:70, 6:70].transpose(2, 0, 1).astype(int)
    assert np.abs(drawn - expected.numpy()).max() <= 2  # float16 latents
    assert sheet.shape[1] == 2 * 64 + 12 and (sheet[70:] < 128).any()  # both views side by side, a caption under them


def test_psnr_is_against_the_pixels_that_were_encoded(home: Path, image_folder: Path) -> None:
    arguments = ("inspect", "cache", "--images", "all.png", "--count", "99", "--split", "train", "--device", "cpu")
    seen = call_ci2p(*arguments, "--data-dir", image_folder, "--json", "seen.json", cwd=home)
    assert seen.returncode == 0, seen.stderr
    assert "21 images decoded" in seen.stdout
    near = json.loads((home / "seen.json").read_text())["train"]["psnr"]
    assert set(near) == {"plain", "mirror"} and abs(near["plain"] - near["mirror"]) < 1
    # Soft pictures decode well; against the wrong pictures, or the wrong view, PSNR would be under 15 dB.
    assert near["plain"] > 25


@pytest.mark.parametrize("store", ["int", "rans"])
def test_integers_beyond_a_byte_are_drawn_too(image_folder: Path, tmp_path: Path, store: str) -> None:
    encode_folder(image_folder, tmp_path / "cache", image_size=64, store=store, step=0.02, splits=["val"])
    arguments = ("inspect", "cache", "--images", "seen.png", "--device", "cpu", "--data-dir", image_folder)
    seen = call_ci2p(*arguments, "--json", "seen.json", cwd=tmp_path)
    assert seen.returncode == 0, seen.stderr
    summary = json.loads((tmp_path / "seen.json").read_text())["val"]
    assert summary["num_escapes"] > 1000 and summary["psnr"]["plain"] > 25  # far less with one of them left out


def test_what_cannot_be_drawn_is_refused(home: Path, image_folder: Path, tmp_path: Path) -> None:
    state = safetensors.torch.load_file(BUNDLED_WEIGHTS)
    state["g_a.6.bias"] = state["g_a.6.bias"] + 1
    safetensors.torch.save_file(state, tmp_path / "other.safetensors")
    (tmp_path / "few" / "train").mkdir(parents=True)
    (tmp_path / "few" / "val").mkdir()
    for split in ("train", "val"):
        for folder in (image_folder / split).iterdir():
            (tmp_path / "few" / split / folder.name).mkdir()
            (tmp_path / "few" / split / folder.name / "x.png").write_bytes(next(folder.iterdir()).read_bytes())
    before = set(files_of(home))
    for arguments, message in {
        ("--images", "grid.jpg"): "--images grid.jpg: give a name that ends in .png",
        (
            "--images",
            "grid.png",
            "--weights",
            str(tmp_path / "other.safetensors"),
        ): "cannot decode this cache",
        ("--images", "grid.png", "--split", "test"): "no ci2p cache with a split 'test'",
        ("--images", "grid.png", "--data-dir", str(tmp_path / "few")): "lacks image ",
        ("--data-dir", str(image_folder)): "give --images FILE.png too",
    }.items():
        refused = call_ci2p("inspect", "cache", *arguments, "--device", "cpu", cwd=home)
        assert refused.returncode == 2 and message in refused.stderr, refused.stderr
    assert set(files_of(home)) == before
