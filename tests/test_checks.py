"""`ci2p checks` and `ci2p recipes`: what there is on this machine, and what one may train by."""

import json
import os
from pathlib import Path

import pytest
import torch

from ci2p_cache.extras import EXTRAS
from pipeline.running.cores import num_cores
from pipeline.running.machine import describe_machine, look_at_machine
from pipeline.train.recipe import Recipe, describe_keys, load_recipe
from tests.conftest import call_ci2p


def test_checks_say_what_is_here_and_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = look_at_machine()
    assert torch.__version__.startswith(str(machine.packages["torch"]))  # which has the build behind it
    assert 1 <= machine.num_cores == num_cores() <= len(os.sched_getaffinity(0)) and machine.free_memory > 1 << 20
    assert machine.extras.keys() == EXTRAS.keys()
    monkeypatch.setitem(EXTRAS, "openvino", "nothing-of-this-name>=3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    lines = "\n".join(describe_machine(look_at_machine()))
    assert "openvino: not installed; pip install 'nothing-of-this-name>=3' if you need it" in lines
    assert "none that torch finds" in lines


def test_checks_as_json(tmp_path: Path) -> None:
    finished = call_ci2p("checks", "--json", "-", cwd=tmp_path)
    said = json.loads(finished.stdout)
    assert finished.returncode == 0 and said["encode_images_per_s"] > 0 and said["device"] in finished.stderr
    assert not list(tmp_path.iterdir())


def test_every_key_of_recipes_is_explained() -> None:
    keys = describe_keys()
    assert [key.name for key in keys] == list(Recipe.model_fields)
    assert [key.name for key in keys if len(key.meaning) < 8] == []


def test_recipes_are_listed_shown_and_copied(tmp_path: Path) -> None:
    listed = call_ci2p("recipes", cwd=tmp_path).stdout
    assert "quick" in listed and "ci2p_vit_tiny, 12 epochs of 32" in listed and "label_smoothing = 0.1" in listed
    shown = call_ci2p("recipes", "show", "best", cwd=tmp_path).stdout
    assert shown.startswith("#") and 'model = "ci2p_vit_tiny"' in shown
    assert call_ci2p("recipes", "copy", "best", "mine.toml", cwd=tmp_path).returncode == 0
    assert load_recipe(tmp_path / "mine.toml") == load_recipe("best")
    (tmp_path / "mine.toml").write_text("lr = 1")
    again = call_ci2p("recipes", "copy", "best", "mine.toml", cwd=tmp_path)
    assert again.returncode == 2 and "mine.toml exists already" in again.stderr
    assert (tmp_path / "mine.toml").read_text() == "lr = 1"
