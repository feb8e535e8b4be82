"""The pixel baselines: the paper's ViT, and one that has the encoder in front of it, to be trained with it."""

# B batch, C channels, H, W grid

import pytest
import torch
from torch import nn

from ci2p_cache.errors import InputError
from pipeline.models import CnnVit, baseline_names, create_model
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
        ("resnet18", 11_181_642),
        ("resnet50d", 23_547_754),
    ],
)
def test_parameter_counts(name: str, params: int) -> None:
    assert name in baseline_names()
    with torch.device("meta"):
        assert num_params(create_model(name, num_classes=10)) == params


def test_a_plain_cnn_reads_pixels_as_they_are_at_every_size() -> None:
    torch.manual_seed(0)
    model = create_model("resnet18", num_classes=5, input_shape=(3, 64, 64), drop_path=0.1)
    assert {type(module) for module in model.modules() if "Norm" in type(module).__name__} == {nn.BatchNorm2d}
    for size in (64, 96):
        assert model(torch.rand(2, 3, size, size)).shape == (2, 5)
    with pytest.raises(InputError, match=r"'resnet18' reads pixels, .*`ci2p baseline --model resnet18`"):
        create_model("resnet18", num_classes=5, input_shape=(192, 16, 16))


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
