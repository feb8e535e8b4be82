"""The frozen encoder: whose weights it has, what it computes, what it refuses."""

import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from ci2p_cache.errors import InputError
from ci2p_cache.printable import counted
from pipeline.encode.codec import BUNDLED_WEIGHTS, hash_weights, load_analysis
from pipeline.encode.decoding import PixelBatch
from pipeline.encode.encoder import Encoder, Precision, load_encoder
from pipeline.models import create_model
from pipeline.running.devices import resolve_device

VIEWS = ("plain", "mirror")


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """Two soft random pictures, uint8 [2, 3, 64, 64]."""
    coarse = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    return torch.from_numpy(coarse.repeat(8, axis=2).repeat(8, axis=3))


def test_ci2p_vit_base_with_its_encoder_has_the_paper_s_parameters() -> None:
    encoder = load_encoder("bundled", "cpu")
    model = create_model("ci2p_vit_base", num_classes=10)
    counts = [sum(p.numel() for p in module.parameters()) for module in (encoder.transform, model)]
    assert counts[0] == 1_493_312
    assert sum(counts) == 88_964_010


def test_a_mirrored_latent_is_not_the_latent_of_the_mirrored_image(pixels: torch.Tensor) -> None:
    views = load_encoder("bundled", "cpu").views(pixels, VIEWS)
    mirrored = load_encoder("bundled", "cpu").views(pixels.flip(-1), ("plain",))
    torch.testing.assert_close(views[:, 1], mirrored[:, 0], rtol=1e-4, atol=1e-4)
    error = (views[:, 0].flip(-1) - views[:, 1]).norm() / views[:, 1].norm()
    assert error > 0.3


def test_bfloat16_stays_near_float32(pixels: torch.Tensor) -> None:
    exact, rounded = (load_encoder("bundled", "cpu", p).views(pixels, VIEWS) for p in ("float32", "bfloat16"))
    assert rounded.dtype == torch.float32
    changed = exact.round() != rounded.round()
    assert 0 < changed.float().mean() < 0.05
    assert (exact.round() - rounded.round()).abs().max() <= 2


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_frozen_encoder_computes_what_the_trained_one_does(pixels: torch.Tensor, precision: Precision) -> None:
    """To the last bit: in bfloat16, what torch's autocast makes of it on a CPU."""
    transform, _ = load_analysis("bundled")
    images = (pixels.float() / 255).contiguous(memory_format=torch.channels_last)
    transform = transform.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        expected = transform(images).float()
    assert torch.equal(load_encoder("bundled", "cpu", precision)(pixels), expected)


def test_every_pixel_value_is_divided_not_multiplied() -> None:
    """Seen from inside the transform: the float32 next to v / 255, for all of a byte's values."""
    seen: list[torch.Tensor] = []
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    encoder = Encoder(lambda images: (seen.append(images), images)[1], "0", torch.device("cpu"), "float32")
    encoder(values)
    assert np.array_equal(seen[0][0, 0].numpy().ravel(), (np.arange(256) / np.float64(255)).astype(np.float32))


def test_the_same_weights_in_any_file_have_one_name(tmp_path: Path) -> None:
    state = safetensors.torch.load_file(BUNDLED_WEIGHTS)
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "training.pth.tar")
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "parallel.pth.tar")
    analysis = {name: tensor for name, tensor in state.items() if name.startswith("g_a.")}
    safetensors.torch.save_file(analysis, tmp_path / "analysis.safetensors")
    names = {load_encoder(str(path), "cpu").weights_sha256 for path in tmp_path.iterdir()}
    assert names == {load_encoder("bundled", "cpu").weights_sha256}
    changed = dict(analysis)
    changed["g_a.6.bias"] = changed["g_a.6.bias"] + 1e-6
    assert hash_weights(changed) != hash_weights(analysis)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "cannot be read as a checkpoint"),
        (b"not a checkpoint at all", "cannot be read as a checkpoint"),
        ({"state_dict": {"other.weight": torch.zeros(1)}}, "no factorized-prior checkpoint: it lacks g_a.0.weight"),
        ([1, 2, 3], "holds no state_dict"),
        ({"g_a.0.weight": torch.zeros(192, 3, 5, 5), "g_a.6.weight": torch.zeros(320, 1, 5, 5)}, r"qualities 6 to 8"),
        ({"g_a.0.weight": torch.zeros(64, 3, 5, 5), "g_a.6.weight": torch.zeros(96, 1, 5, 5)}, r"has N=64, M=96, and"),
        ({"g_a.0.weight": torch.zeros(128, 3, 5, 5), "g_a.6.weight": torch.zeros(192, 1, 5, 5)}, "does not fit"),
    ],
)
def test_what_is_no_encoder_is_refused(tmp_path: Path, contents: object, message: str) -> None:
    path = tmp_path / "weights.pth.tar"
    if isinstance(contents, bytes):
        path.write_bytes(contents)
    else:
        torch.save(contents, path)
    with pytest.raises(InputError, match=message):
        load_encoder(str(path), "cpu")


def test_weights_that_are_not_finite_stop_the_run(tmp_path: Path, image_folder: Path) -> None:
    from ci2p_cache.errors import WorkError
    from tests.conftest import encode_folder

    state = safetensors.torch.load_file(BUNDLED_WEIGHTS)
    state["g_a.6.bias"][3] = float("nan")
    safetensors.torch.save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(WorkError, match=r"train image .*not finite; check its weights"):
        encode_folder(image_folder, tmp_path / "cache", weights=str(tmp_path / "nan.safetensors"))


@pytest.mark.parametrize(
    ("device", "message"),
    [
        *((name, f"--device '{name}' is unknown; use auto") for name in ("gpu", "xpu", "meta", "cpu:1", "cuda:", "")),
        (
            "cuda:99",
            f"--device cuda:99: torch finds {counted(torch.cuda.device_count(), 'CUDA device')}; use --device auto",
        ),
        ("mps", "--device mps: this machine has none"),
    ],
)
def test_devices_are_refused_by_name(device: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("cpu").type == "cpu"
    with pytest.raises(InputError, match=message):
        resolve_device(device)
    with pytest.raises(InputError, match=message):
        load_encoder("bundled", device)


@pytest.mark.parametrize(("precision", "share", "furthest"), [("float32", 1e-4, 1e-3), ("bfloat16", 0.05, 1.5)])
def test_openvino_computes_the_same_latents(precision: Precision, share: float, furthest: float) -> None:
    pytest.importorskip("openvino")
    generator = torch.Generator().manual_seed(0)
    for batch, size in ((3, 64), (1, 96)):  # any batch and image size from one network
        pixels = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)
        ours = load_encoder("bundled", "cpu", precision, engine="openvino").views(pixels, VIEWS)
        theirs = load_encoder("bundled", "cpu").views(pixels, VIEWS)
        assert ours.shape == theirs.shape and ours.dtype == torch.float32
        assert (ours - theirs).abs().max() < furthest
        assert (ours.round() != theirs.round()).float().mean() < share


def test_an_encode_by_openvino_is_the_same_cache_and_says_so(image_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from ci2p_cache.cache import open_cache
    from tests.conftest import encode_folder

    quick, plain = (
        open_cache(encode_folder(image_folder, tmp_path / engine, engine=engine), "train")
        for engine in ("openvino", "torch")
    )
    assert quick.spec == plain.spec
    assert "openvino" in quick.manifest.recorded[0]["versions"]
    assert "openvino" not in plain.manifest.recorded[0]["versions"]


def test_openvino_is_refused_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        InputError, match=r"--engine openvino: .* not installed; pip install 'openvino>=2025.0', or use --engine torch"
    ):
        load_encoder("bundled", "cpu", engine="openvino")
    monkeypatch.setattr("pipeline.encode.encoder.resolve_device", lambda *_: torch.device("cuda", 0))
    with pytest.raises(InputError, match="--engine openvino is for the CPU, and --device is cuda:0"):
        load_encoder("bundled", "cuda", engine="openvino")


def test_float32_is_no_tf32_while_the_encoder_computes() -> None:
    """Seen from inside the transform; afterwards everything is as the user had set it."""
    seen = []

    def transform(pixels: torch.Tensor) -> torch.Tensor:
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        return pixels

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        encoder = Encoder(transform, "0", torch.device("cpu"), "float32")
        encoder(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
        assert seen == [(False, False)] and torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before


def test_a_batch_of_pixels_is_pinned_by_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch's DataLoader does it on a machine with a GPU: what has no `pin_memory` it passes on as it is."""
    from torch.utils.data._utils.pin_memory import pin_memory

    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: (pinned.append(tensor), tensor)[1])
    batch = PixelBatch([3], torch.zeros(1, 1, 3, 32, 32, dtype=torch.uint8), [], {})
    again = pin_memory(batch)
    assert isinstance(again, PixelBatch) and again.indices == [3] and len(pinned) == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_its_precision_is_not_the_caller_s_autocast(precision: Precision) -> None:
    encoder = load_encoder("bundled", "cpu", precision)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = encoder(pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder(pixels), expected)
