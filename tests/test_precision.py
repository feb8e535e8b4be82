"""precision = "auto": what suits the device, decided once a run; TF32 for all float32 products, or for none."""

import json
from pathlib import Path

import pytest
import torch

from ci2p_cache.errors import InputError
from pipeline.running.tf32 import float32_products
from pipeline.train.precision import decided, refuse_unable
from pipeline.train.run_folder import read_config
from tests.toy_training import toy_recipe, train_toy

NOWHERE = Path("runs/none")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Pascal, a Turing and an Ampere, as far as is asked of them."""
    capabilities = [(6, 1), (7, 5), (8, 0)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU of {capabilities[index][0]}")


@pytest.mark.parametrize(
    ("device", "local_rank", "precision"),
    [
        ("cpu", 0, "float32"),
        ("mps", 0, "float32"),
        ("cuda:0", 0, "float32"),
        ("cuda:1", 0, "float16"),
        ("cuda", 2, "bfloat16"),
    ],
)
def test_a_device_gets_what_suits_it(
    gpus: None, monkeypatch: pytest.MonkeyPatch, device: str, local_rank: int, precision: str
) -> None:
    if local_rank:
        for name, value in {"RANK": 0, "WORLD_SIZE": 3, "LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": 3}.items():
            monkeypatch.setenv(name, str(value))
    assert decided(toy_recipe(), NOWHERE, device).precision == precision
    assert decided(toy_recipe(precision="float16"), NOWHERE, device).precision == "float16"


def test_a_run_keeps_what_it_was_begun_with(
    gpus: None, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under "auto", on whatever device; a command that names another is refused as ever."""
    caplog.set_level("INFO", "ci2p")
    train_toy(tmp_path, epochs=1, schedule="constant")
    assert read_config(tmp_path).recipe.precision == "float32" and "precision" not in caplog.text
    longer = toy_recipe(epochs=2, schedule="constant")
    assert decided(longer, tmp_path, "cuda:2").precision == "float32"
    assert f"precision is float32, which {tmp_path} was begun with" in caplog.text
    train_toy(tmp_path, epochs=2, schedule="constant")
    with pytest.raises(InputError, match="precision is 'float32' there and 'bfloat16' in this command"):
        train_toy(tmp_path, epochs=2, schedule="constant", precision="bfloat16")

    config = json.loads((tmp_path / "config.json").read_text())
    config["recipe"]["precision"] = "tf32"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert decided(longer, tmp_path, "cuda:2").precision == "tf32"
    with pytest.raises(InputError, match="was begun with precision tf32, and it is what NVIDIA's GPUs do, and the dev"):
        decided(longer, tmp_path, "cpu")
    with pytest.raises(InputError, match="precision tf32: GPU of 7 has none"):
        refuse_unable("cuda:1", "tf32")


def test_a_run_of_float32_has_the_name_it_always_had(tmp_path: Path) -> None:
    """Checkpoints carry it: those of runs from before "auto" stay theirs."""
    train_toy(tmp_path, epochs=1)
    assert read_config(tmp_path).run_id == "8a3e87defa2df478"


@pytest.mark.parametrize("is_tf32", [True, False])
def test_convolutions_and_products_go_alike(is_tf32: bool) -> None:
    backends = torch.backends

    def now() -> list[object]:
        older = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()
        return [*older, backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision]  # type: ignore[attr-defined]

    before = now()
    with float32_products(tf32=is_tf32):
        convolutions, products, *_, newer, newer_products = now()
        assert convolutions == products == is_tf32
        assert (newer == "tf32") == (newer_products == "tf32") == is_tf32
    assert now() == before
    backends.cuda.matmul.fp32_precision = "tf32"  # of which the older name says nothing then
    try:
        with float32_products(tf32=False):
            assert not backends.cuda.matmul.allow_tf32
        assert backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        backends.cuda.matmul.allow_tf32 = False
        backends.cuda.matmul.fp32_precision = "none"
    assert now() == before
