"""Numbers that are none end whatever would measure or keep them, and say where they are."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from ci2p_cache.cache import open_cache
from ci2p_cache.errors import WorkError
from pipeline.evaluate.predictions import predict_cache, refuse_no_number
from pipeline.models import Variant
from pipeline.running.finite import non_finite
from pipeline.train.data import CacheData, Share, open_training_data
from pipeline.train.launch import launch
from pipeline.train.loop import train
from pipeline.train.validation import validate
from tests.conftest import call_ci2p, encode_folder
from tests.test_cli import refused
from tests.toy_training import ToyData, build_small, toy_recipe, train_toy


class Level(nn.Module):
    """Logits that follow the mean of three channels."""

    def forward(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        return latents_BCHW[:, :3].mean((2, 3))


@pytest.fixture(scope="module")
def cache_of_no_numbers(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> CacheData:
    """A float16 cache of which one latent of the validation split holds a value that is no number."""
    cache = encode_folder(image_folder, tmp_path_factory.mktemp("cache") / "halves", store="float16")
    return open_training_data(cache, resident="cpu")


def _spoil(batches: object) -> None:
    resident = batches._resident  # type: ignore[attr-defined]
    resident.values[4, 7, 0, 0] = float("nan")  # the plain view of the fifth sample; no other is held


def test_the_tensor_is_named() -> None:
    state = {"whole": torch.ones(2), "counts": torch.ones(2, dtype=torch.int64), "b": torch.tensor([0.0, np.inf])}
    assert non_finite(state) == "b"
    del state["b"]
    assert non_finite(state) is None


def test_weights_that_are_no_numbers_are_not_measured(zarr_cache: Path, tmp_path: Path) -> None:
    train = ("train", "--shards", zarr_cache, "--model", "ci2p_vit_tiny", "--epochs", "1", "--out", "run")
    assert call_ci2p(*train, "--device", "cpu", "--batch-size", "8", cwd=tmp_path).returncode == 0
    best = tmp_path / "run" / "best.safetensors"
    weights = safetensors.torch.load_file(best)
    weights["head.weight"][0, 0] = float("inf")
    safetensors.torch.save_file(weights, best)
    for command in (
        ("eval", "--checkpoint", "run"),
        ("predict", "--checkpoint", "run", "x.png"),
        ("export", "run", "--to", "torch"),
    ):
        message = refused(call_ci2p(*command, cwd=tmp_path), status=1)
        assert "best.safetensors: head.weight holds values that are infinite or no number" in message


def test_the_validation_sample_is_named(cache_of_no_numbers: CacheData) -> None:
    batches = cache_of_no_numbers.val_batches(Share(0, 1, torch.device("cpu")), batch_size=4)
    fabric = launch("cpu", "float32")
    validate(fabric, Level(), batches, num_classes=3)
    _spoil(batches)
    key = cache_of_no_numbers.val.read_keys()[4]
    with pytest.raises(WorkError, match=f"1 of 9 validation samples \\({key} is one\\).*1 of them hold values"):

        class Whole(nn.Module):
            def forward(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
                return latents_BCHW.mean((2, 3))[:, 6:9]

        validate(fabric, Whole(), batches, num_classes=3)


def test_outputs_that_grew_too_large_are_said(tmp_path: Path) -> None:
    class Endless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build_small(
                "ci2p_vit_tiny",
                num_classes=3,
                input_shape=(8, 4, 4),
                drop_path=0.0,
                variant=Variant(),
                pretrained=False,
            )

        def forward(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
            logits_BK: torch.Tensor = self.inner(latents_BCHW)
            return logits_BK if self.training else logits_BK / 0

    with pytest.raises(WorkError, match="21 of 21 validation samples the model says no number; the model's values"):
        train(toy_recipe(epochs=1), ToyData(), tmp_path, device="cpu", build=lambda *_, **__: Endless())


def test_predictions_that_are_none_name_the_image(zarr_cache: Path) -> None:
    split = open_cache(zarr_cache, "val")
    (part,) = predict_cache(Level(), split, batch_size=9, device=torch.device("cpu"))
    refuse_no_number(part, split.read_keys())
    with torch.inference_mode():
        part.probabilities[5] = float("nan")
    with pytest.raises(WorkError, match=f"what the model says of {split.read_keys()[5]} is no number"):
        refuse_no_number(part, split.read_keys())


def test_a_loss_that_is_none_at_once_speaks_of_no_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"^the loss is nan at step 2 .* which is in no checkpoint"):
        train_toy(tmp_path, ToyData(fault=("nan", 0, 2)))
    assert not (tmp_path / "last.ckpt").exists()
