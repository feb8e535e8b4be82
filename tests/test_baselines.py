"""The pixel baselines: the paper's ViT, and an analysis transform that is CompressAI's to the last digit."""

# B batch, C channels, H, W grid

import pipeline  # noqa: F401  (before timm and compressai: it sees to it that torchvision imports)

# isort: split
import compressai.models
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.models import CnnVit, baseline_names, create_model
from pipeline.models.analysis_transform import AnalysisTransform
from pipeline.models.gdn import GDN
from pipeline.train.optimizer import build_optimizer
from pipeline.train.recipe import Recipe


def num_params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("vit_base", 85_850_890),  # the paper: 86 M
        ("vit_base_p32", 87_472_906),
        ("vit_small", 21_691_786),
        ("vit_tiny", 5_537_482),
        ("vit_tiny_p32", 5_942_986),
        ("cnn_vit", 88_964_010),  # CI2P-ViT's, encoder included
        ("cnn_vit_tiny", 8_576_298),
    ],
)
def test_parameter_counts(name: str, params: int) -> None:
    assert name in baseline_names()
    with torch.device("meta"):
        assert num_params(create_model(name, num_classes=10)) == params


def test_the_baseline_differs_from_ci2p_vit_in_its_tokens_alone() -> None:
    with torch.device("meta"):
        baseline = create_model("vit_tiny", num_classes=10, drop_path=0.1)
        ours = create_model("ci2p_vit_tiny", num_classes=10, drop_path=0.1)
    assert baseline.cls_token is None and baseline.pos_embed.shape == (1, 256, 192)
    assert str(baseline.blocks) == str(ours.blocks)
    for part in ("norm_pre", "norm", "fc_norm", "head_drop", "head"):
        assert str(getattr(baseline, part)) == str(getattr(ours, part)), part
    assert baseline.global_pool == ours.global_pool == "avg"


def test_a_patch_of_the_baseline_is_a_square_of_pixels() -> None:
    model = create_model("vit_tiny_p32", num_classes=5).eval()
    pixels_BCHW = torch.rand(1, 3, 256, 256)
    moved_BCHW = pixels_BCHW.clone()
    moved_BCHW[:, :, 32:64, 224:] += 0.5
    with torch.no_grad():
        change_N = (model.patch_embed(moved_BCHW) - model.patch_embed(pixels_BCHW)).abs().sum((0, 2))
    assert change_N.nonzero().flatten().tolist() == [15]


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


def theirs_and_ours() -> tuple[nn.Module, AnalysisTransform]:
    """CompressAI's analysis transform and ours with its weights, some of them below what is allowed."""
    torch.manual_seed(1)
    theirs: nn.Module = compressai.models.FactorizedPrior(128, 192).g_a
    with torch.no_grad():
        for layer in theirs:
            if hasattr(layer, "gamma"):
                layer.gamma.add_(0.03 * torch.randn_like(layer.gamma))
                layer.beta.add_(0.3 * torch.randn_like(layer.beta))
                layer.beta[:4] = torch.tensor([-0.1, 0.0, 1e-5, 2.0])
            else:
                layer.weight.mul_(4)
    ours = AnalysisTransform()
    ours.load_state_dict({name: value for name, value in theirs.state_dict().items() if "_reparam" not in name})
    return theirs, ours


def test_the_analysis_transform_is_compressai_s() -> None:
    theirs, ours = theirs_and_ours()
    assert num_params(ours) == num_params(theirs) == 1_493_312
    pixels_BCHW = torch.rand(2, 3, 64, 96)
    latents = [transform(pixels_BCHW) for transform in (theirs, ours)]
    assert latents[1].shape == (2, 192, 4, 6) and latents[1].std() > 0.01
    torch.testing.assert_close(latents[1], latents[0])
    weights_BCHW = torch.randn_like(latents[0])
    for latent_BCHW in latents:
        (latent_BCHW * weights_BCHW).sum().backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        gradient: Tensor | None = expected[name]
        assert gradient is not None and parameter.grad is not None
        scale = gradient.abs().max().item()
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-4 * scale, msg=name)


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


def test_cnn_vit_is_an_analysis_transform_and_a_ci2p_vit_and_trains_both() -> None:
    torch.manual_seed(0)
    model = create_model("cnn_vit_tiny", num_classes=5, input_shape=(3, 64, 64))
    assert isinstance(model, CnnVit)
    with torch.device("meta"):
        ours = create_model("ci2p_vit_tiny", num_classes=5)
    assert {name: value.shape for name, value in model.vit.state_dict().items()} == {
        name: value.shape for name, value in ours.state_dict().items()
    }
    pixels_BCHW = torch.rand(4, 3, 64, 64)
    model(pixels_BCHW).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(pixels_BCHW), model.vit(model.encoder(pixels_BCHW)))


def test_weight_decay_spares_embeddings_and_divisive_normalisation() -> None:
    with torch.device("meta"):
        models = {name: create_model(name, num_classes=5) for name in ("cnn_vit_tiny", "vit_tiny")}
    for name, spared in (("cnn_vit_tiny", "encoder.1.gamma"), ("vit_tiny", "pos_embed")):
        groups = build_optimizer(models[name], Recipe()).param_groups
        decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
        parameters = dict(models[name].named_parameters())
        assert parameters[spared].ndim > 1 and id(parameters[spared]) not in decayed
        weight = next(parameter for key, parameter in parameters.items() if key.endswith("qkv.weight"))
        assert id(weight) in decayed
