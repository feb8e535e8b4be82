"""The codec's two transforms: CompressAI's to the last bit, where that is installed, and GDN by its formula.

Legend: B batch, C channels, H, W grid.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

import pipeline  # noqa: F401  (before compressai: it sees to it that torchvision imports)
from ci2p_cache.errors import InputError
from pipeline.encode.codec import BUNDLED_WEIGHTS, load_analysis, load_synthesis
from pipeline.encode.encoder import load_encoder
from pipeline.transforms import GDN, AnalysisTransform, SynthesisTransform

NOT_INSTALLED = "compares with CompressAI, the extra [compressai]"
# Of CompressAI 1.2.8 on torch 2.13.0, for the picture of `formula_picture`.
GOLDEN_LATENTS = [-0.136001, -0.0396527, 0.217635, -0.150441, -0.381053]
GOLDEN_PIXELS = [0.374915, 0.161148, 0.589847]


@pytest.fixture
def compressai_model() -> Any:
    """CompressAI's codec with the bundled weights, loaded by its own classes."""
    models = pytest.importorskip("compressai.models", reason=NOT_INSTALLED)
    return models.FactorizedPrior.from_state_dict(safetensors.torch.load_file(BUNDLED_WEIGHTS)).eval()


def formula_picture() -> Tensor:
    """float [1, 3, 32, 48] in [0, 1]."""
    row, column = torch.meshgrid(torch.arange(32.0), torch.arange(48.0), indexing="ij")
    return torch.stack([(row * 7 % 32) / 32, (column * 5 % 48) / 48, (row + column) / 80])[None]


def test_both_transforms_equal_compressai_s_to_the_bit(compressai_model: Any) -> None:
    pixels_BCHW = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    analysis, synthesis = load_analysis("bundled")[0], load_synthesis("bundled")[0]
    with torch.inference_mode():
        latents_BCHW = analysis(pixels_BCHW)
        assert latents_BCHW.equal(compressai_model.g_a(pixels_BCHW))
        assert synthesis(latents_BCHW.round()).equal(compressai_model.g_s(latents_BCHW.round()))
    assert latents_BCHW.shape == (2, 192, 6, 4) and latents_BCHW.std() > 0.1


@pytest.mark.real_data
def test_both_transforms_equal_compressai_s_to_the_bit_on_kodak(compressai_model: Any, real_data: Path) -> None:
    analysis, synthesis = load_analysis("bundled")[0], load_synthesis("bundled")[0]
    files = sorted((real_data / "kodak").glob("*.png"))
    assert len(files) == 24
    for file in files:
        pixels_BCHW = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            latents_BCHW = analysis(pixels_BCHW)
            assert (latents_BCHW - compressai_model.g_a(pixels_BCHW)).abs().max() == 0.0, file
            theirs_BCHW = compressai_model.g_s(latents_BCHW.round())
            assert (synthesis(latents_BCHW.round()) - theirs_BCHW).abs().max() == 0.0, file


def test_the_encoder_s_views_are_compressai_s_latents(compressai_model: Any) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    pixels = torch.from_numpy(coarse.repeat(8, axis=2).repeat(8, axis=3))
    with torch.inference_mode():
        expected = compressai_model.g_a(pixels.float() / 255)
    ours = load_encoder("bundled", "cpu").views(pixels, ("plain", "mirror"))
    assert ours.shape == (2, 2, 192, 4, 4) and ours.dtype == torch.float32
    torch.testing.assert_close(ours[:, 0], expected, rtol=1e-4, atol=1e-4)  # channels-last sums in another order
    # What is cached are the integers, and they are the same but where a value stands on the edge of two.
    assert (ours[:, 0].round() != expected.round()).float().mean() < 1e-3


def test_latents_and_pictures_are_compressai_s_where_it_is_not_installed_too() -> None:
    with torch.inference_mode():
        latents_BCHW = load_analysis("bundled")[0](formula_picture())
        picture_BCHW = load_synthesis("bundled")[0](latents_BCHW.round())
    torch.testing.assert_close(latents_BCHW[0, ::40, 1, 2], torch.tensor(GOLDEN_LATENTS), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(picture_BCHW[0, :, 20, 30], torch.tensor(GOLDEN_PIXELS), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["g_a.1.beta_reparam.pedestal", "g_s.3.gamma_reparam.lower_bound.bound"])
def test_a_file_that_compressai_would_read_otherwise_is_refused(tmp_path: Path, name: str) -> None:
    load = load_analysis if name.startswith("g_a") else load_synthesis
    for change in ("missing", "another"):
        state = safetensors.torch.load_file(BUNDLED_WEIGHTS)
        if change == "missing":
            del state[name]
        else:
            state[name] = state[name] * 2
        path = tmp_path / f"{change}.safetensors"
        safetensors.torch.save_file(state, path)
        with pytest.raises(InputError, match=rf"does not fit .*{name.partition('.')[2]} is missing or not what it is"):
            load(str(path))


def test_an_encoder_alone_has_no_pictures(tmp_path: Path) -> None:
    state = safetensors.torch.load_file(BUNDLED_WEIGHTS)
    safetensors.torch.save_file({k: v for k, v in state.items() if k.startswith("g_a.")}, tmp_path / "e.safetensors")
    with pytest.raises(InputError, match=r"e.safetensors holds an encoder alone; this needs its decoder too"):
        load_synthesis(str(tmp_path / "e.safetensors"))


def test_gdn_by_hand() -> None:
    torch.manual_seed(0)
    gdn = GDN(4).double()
    beta_C, gamma_CC = torch.rand(4).double() + 0.5, torch.rand(4, 4).double()
    with torch.no_grad():
        gdn.beta.copy_((beta_C + 2**-36).sqrt())
        gdn.gamma.copy_((gamma_CC + 2**-36).sqrt())
        x_BCHW = torch.randn(2, 4, 3, 5).double()
        y_BCHW = gdn(x_BCHW).numpy()
    x, beta, gamma = x_BCHW.numpy(), beta_C.numpy(), gamma_CC.numpy()
    energy = beta[:, None, None] + np.einsum("ij,bjhw->bihw", gamma, x**2)
    np.testing.assert_allclose(y_BCHW, x / np.sqrt(energy), rtol=1e-9)


def test_gdn_begins_with_beta_one_and_a_tenth_of_the_identity() -> None:
    x_BCHW = torch.randn(2, 6, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(GDN(6)(x_BCHW), x_BCHW / (1 + 0.1 * x_BCHW**2).sqrt())


def theirs_and_ours(part: str, ours: nn.Sequential) -> tuple[nn.Module, nn.Sequential]:
    """A transform of CompressAI's and ours with its weights, some of them below what is allowed."""
    torch.manual_seed(1)
    models = pytest.importorskip("compressai.models", reason=NOT_INSTALLED)
    theirs: nn.Module = getattr(models.FactorizedPrior(128, 192), part)
    with torch.no_grad():
        for layer in theirs:
            if hasattr(layer, "gamma"):
                layer.gamma.add_(0.03 * torch.randn_like(layer.gamma))
                layer.beta.add_(0.3 * torch.randn_like(layer.beta))
                layer.beta[:4] = torch.tensor([-0.1, 0.0, 1e-5, 2.0])
            else:
                layer.weight.mul_(4)
    ours.load_state_dict({name: value for name, value in theirs.state_dict().items() if "_reparam" not in name})
    return theirs, ours


def test_the_analysis_transform_and_its_gradients_are_compressai_s() -> None:
    theirs, ours = theirs_and_ours("g_a", AnalysisTransform())
    assert sum(parameter.numel() for parameter in ours.parameters()) == 1_493_312
    pixels_BCHW = torch.rand(2, 3, 64, 96)
    latents = [transform(pixels_BCHW) for transform in (theirs, ours)]
    assert latents[1].shape == (2, 192, 4, 6) and latents[1].std() > 0.01
    assert latents[1].equal(latents[0])
    weights_BCHW = torch.randn_like(latents[0])
    for latent_BCHW in latents:
        (latent_BCHW * weights_BCHW).sum().backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        gradient: Tensor | None = expected[name]
        assert gradient is not None and parameter.grad is not None
        scale = gradient.abs().max().item()
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-4 * scale, msg=name)


def test_the_synthesis_transform_is_compressai_s() -> None:
    theirs, ours = theirs_and_ours("g_s", SynthesisTransform())
    latents_BCHW = torch.randn(1, 192, 3, 2)
    with torch.no_grad():
        assert ours(latents_BCHW).equal(theirs(latents_BCHW))


def test_a_value_below_its_bound_can_only_rise() -> None:
    gdn = GDN(2)
    with torch.no_grad():
        gdn.gamma.fill_(-0.5)
    x_BCHW = torch.ones(1, 2, 1, 1)
    gdn(x_BCHW).sum().backward()  # descent shrinks y, so it wants a larger gamma
    assert gdn.gamma.grad is not None and (gdn.gamma.grad < 0).all()
    gdn.gamma.grad = None
    (-gdn(x_BCHW).sum()).backward()
    assert (gdn.gamma.grad == 0).all()
