"""A run's data are found from another folder, after a move of both, and nowhere else."""

import json
import os
import shutil
from pathlib import Path

import pytest

import ci2p
from ci2p_cache.errors import InputError
from pipeline.train.data_place import DataPlace, find_data, place_of
from tests.conftest import call_ci2p, encode_folder


@pytest.fixture(scope="module")
def home(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """caches/x, images/, and runs/ of it and of a baseline, all given by relative paths. Not to be changed."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(image_folder, home / "images")
    encode_folder(home / "images", home / "caches" / "x")
    for command in (
        ("train", "--shards", "caches/x", "--model", "ci2p_vit_tiny", "--out", "runs/latents"),
        ("baseline", "--data-dir", "images", "--image-size", "32", "--model", "vit_tiny", "--out", "runs/pixels"),
    ):
        finished = call_ci2p(*command, "--epochs", "1", "--batch-size", "4", "--device", "cpu", cwd=home)
        assert finished.returncode == 0, finished.stderr
    return home


@pytest.mark.parametrize("run", ["latents", "pixels"])
def test_from_another_folder_and_after_a_move(home: Path, tmp_path: Path, run: str) -> None:
    def top1(where: Path, cwd: Path, *more: object) -> float:
        arguments = ("eval", "--checkpoint", where / "runs" / run, "--device", "cpu", "--json", tmp_path / "e.json")
        finished = call_ci2p(*arguments, *more, cwd=cwd)
        assert finished.returncode == 0, finished.stderr
        return float(json.loads((tmp_path / "e.json").read_text())["ece"])

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    here = top1(home, home)
    assert top1(home, elsewhere) == here
    moved = shutil.copytree(home, tmp_path / "moved")
    config = moved / "runs" / run / "config.json"
    assert str(home) in config.read_text()
    config.write_text(config.read_text().replace(os.path.realpath(home), str(tmp_path / "gone")))
    assert top1(moved, elsewhere) == here


def test_where_it_was_looked_is_said(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = shutil.copytree(home / "runs", tmp_path / "runs") / "latents"
    config = run / "config.json"
    config.write_text(config.read_text().replace(os.path.realpath(home), "/gone"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as raised:
        ci2p.evaluate(run, device="cpu")
    assert str(raised.value) == (
        f"what {run} was trained on is not there any more: looked for /gone/caches/x and {tmp_path}/caches/x; "
        "say where it is with --shards CACHE"
    )
    assert ci2p.evaluate(run, shards=home / "caches" / "x", device="cpu").num_images == 9


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_of("s3://bucket/x", Path("runs/a")) == DataPlace(path="s3://bucket/x")
    assert place_of("nowhere", Path("runs/a")) == DataPlace(path="nowhere")
    assert find_data(DataPlace(path="s3://bucket/x"), tmp_path) == "s3://bucket/x"
    (tmp_path / "caches" / "x").mkdir(parents=True)
    place = place_of("caches/x", Path("runs/a"))
    assert (place.absolute_path, place.path_from_run) == (f"{tmp_path}/caches/x", "../../caches/x")
    assert find_data(place, tmp_path / "runs" / "a") == "caches/x"  # what was given, where that is it
    (tmp_path / "other" / "caches" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "other")  # another cache of that name is here
    assert find_data(place, tmp_path / "runs" / "a") == f"{tmp_path}/caches/x"
