"""A run that starts from published weights: they are asked for once, at its very beginning."""

import pipeline  # noqa: F401  (before timm: it sees to it that torchvision imports)

# isort: split
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.models import Variant, create_model
from pipeline.train.loop import TrainResult, train
from pipeline.train.recipe import Recipe, load_recipe, parse_setting
from pipeline.train.run_folder import read_config
from pipeline.train.trained_model import load_model
from tests.conftest import run_python
from tests.test_cli import refused
from tests.toy_training import ToyData

MODEL = "test_vit"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of timm's, with a value that no initialisation draws."""
    torch.manual_seed(5)
    state = timm.create_model(MODEL).state_dict()
    state["blocks.0.norm1.weight"] = torch.full_like(state["blocks.0.norm1.weight"], 1.75)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file(state, path)
    return path


class Builder:
    """`create_model`, remembering what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[bool | str] = []

    def __call__(
        self,
        name: str,
        *,
        num_classes: int,
        input_shape: tuple[int, int, int],
        drop_path: float,
        variant: Variant,
        pretrained: bool | str,
    ) -> nn.Module:
        self.asked.append(pretrained)
        return create_model(
            name,
            num_classes=num_classes,
            input_shape=input_shape,
            drop_path=drop_path,
            variant=variant,
            pretrained=pretrained,
        )


def test_a_run_begins_with_the_weights_and_never_asks_again(file: Path, tmp_path: Path) -> None:
    moving = tmp_path / "weights.safetensors"
    moving.write_bytes(file.read_bytes())
    recipe = Recipe.model_validate(
        {"model": MODEL, "pretrained": str(moving), "epochs": 1, "batch_size": 20, "lr": 2e-5, "min_lr": 1e-5}
    )
    build = Builder()

    def go_on(run: str, max_minutes: float | None = None) -> TrainResult:
        return train(recipe, ToyData(), tmp_path / run, device="cpu", max_minutes=max_minutes, build=build)

    assert go_on("whole").finished
    assert not go_on("run", max_minutes=0).finished
    moving.unlink()
    assert go_on("run").finished
    assert go_on("run").finished  # a finished run, asked once more
    model, config = load_model(tmp_path / "run", build)
    assert config.recipe.pretrained == read_config(tmp_path / "run").recipe.pretrained == str(moving)
    assert build.asked == [str(moving), str(moving), False, False, False]
    assert torch.allclose(model.state_dict()["blocks.0.norm1.weight"], torch.tensor(1.75), atol=1e-3)
    whole, resumed = (load_file(tmp_path / run / "best.safetensors") for run in ("whole", "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_recipe_takes_a_switch_or_a_file() -> None:
    assert Recipe().pretrained is False
    for given, expected in (
        ("true", True),
        ('"weights/vit.pth"', "weights/vit.pth"),
        ("vit.pth", "vit.pth"),
        ("a/b.pth", "a/b.pth"),
    ):
        key, value = parse_setting(f"pretrained={given}")
        recipe = load_recipe("quick", {key: value})
        assert recipe.pretrained == expected
        assert Recipe.model_validate_json(recipe.model_dump_json()).pretrained == expected


def test_without_a_network_the_error_says_what_to_fetch(zarr_cache: Path, tmp_path: Path) -> None:
    arguments = ("train", "--shards", zarr_cache, "--device", "cpu", "--pretrained", "--model")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    message = refused(run_python("-m", "ci2p", *arguments, MODEL, cwd=tmp_path, **offline))
    assert f"the weights of {MODEL} are not on this machine and the download failed" in message
    assert f"fetch https://huggingface.co/timm/{MODEL}." in message
    assert "--set pretrained=FILE" in message
    assert not (tmp_path / "runs").exists()
