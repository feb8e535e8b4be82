"""CI2P-ViT-ds: the paper's two scales, their maps, and what lies between them."""

# B batch, C latent channels (192), H=W latent grid (16), N tokens, D width

import pipeline  # noqa: F401  (before timm: it sees to it that torchvision imports)

# isort: split
import pytest
import timm
import torch
from torch import nn

from pipeline.models import DualScaleVit, InvertedResidual, create_model


def small(**settings: object) -> DualScaleVit:
    """The dual-scale model with two narrow blocks a scale."""
    sizes = {"embed_dims": (192, 48), "depths": (2, 2), "num_heads": (3, 4), "num_classes": 5}
    model = timm.create_model("ci2p_vit_ds", **(sizes | settings))
    assert isinstance(model, DualScaleVit)
    return model.eval()


def test_the_paper_s_shape() -> None:
    with torch.device("meta"):
        model = create_model("ci2p_vit_ds", num_classes=10, drop_path=0.11)
    assert isinstance(model, DualScaleVit)
    for blocks, width, heads in ((model.fine_blocks, 192, 3), (model.coarse_blocks, 768, 12)):
        assert len(blocks) == 6
        for block in blocks:
            assert block.attn.num_heads == heads and block.attn.qkv.bias is not None
            assert block.mlp.fc1.in_features == width and block.mlp.fc1.out_features == 4 * width
            assert isinstance(block.mlp.act, nn.GELU) and block.mlp.act.approximate == "none"
            assert block.norm1.eps == block.norm2.eps == model.norm.eps == 1e-6
    first, second = model.patch_reshape
    assert first.has_shortcut and second.has_shortcut and not model.cnn_reshape.has_shortcut
    assert model.cnn_reshape.depthwise.conv.kernel_size == (5, 5)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in (*model.fine_blocks, *model.coarse_blocks)]
    assert rates == pytest.approx([0.01 * k for k in range(12)])  # one ramp over both scales


@pytest.mark.parametrize("size", [16, 24])
def test_feature_maps_are_the_two_grids(size: int) -> None:
    model = small()
    latents_BCHW = torch.randn(2, 192, size, size)
    with torch.no_grad():
        fine_BDHW, coarse_BDHW = model.feature_maps(latents_BCHW)
        logits_BK = model(latents_BCHW)
    assert fine_BDHW.shape == (2, 192, size, size)
    assert coarse_BDHW.shape == (2, 48, size // 2, size // 2)
    torch.testing.assert_close(model.head(coarse_BDHW.mean((2, 3))), logits_BK)


def test_maps_lie_as_the_latent_lies() -> None:
    """Without its blocks the model is convolutions: what changes at a corner changes that corner of both maps alone."""
    model = small(depths=(0, 0))
    for module in model.modules():
        if isinstance(module, InvertedResidual):
            nn.init.zeros_(module.squeeze_excite.expand.weight)  # a gate of its own mean would reach everywhere
    latents_BCHW = torch.randn(1, 192, 16, 16)
    moved_BCHW = latents_BCHW.clone()
    moved_BCHW[:, :, 0, 15] += 100.0
    with torch.no_grad():
        before, after = model.feature_maps(latents_BCHW), model.feature_maps(moved_BCHW)
    for old_BDhw, new_BDhw, reach in zip(before, after, (3, 3), strict=True):
        change_hw = (new_BDhw - old_BDhw).abs().sum((0, 1))
        assert change_hw[0, -1] > 0
        assert change_hw[reach:].sum() == 0 and change_hw[:, :-reach].sum() == 0


def test_timm_s_features_only_gives_the_maps_before_the_norm() -> None:
    torch.manual_seed(0)
    whole = small()
    torch.manual_seed(0)
    features = timm.create_model(
        "ci2p_vit_ds", features_only=True, embed_dims=(192, 48), depths=(2, 2), num_heads=(3, 4), num_classes=5
    ).eval()
    assert features.feature_info.channels() == [192, 48] and features.feature_info.reduction() == [1, 2]
    latents_BCHW = torch.randn(2, 192, 16, 16)
    with torch.no_grad():
        fine_BDHW, coarse_BDHW = features(latents_BCHW)
        expected_fine_BDHW, expected_coarse_BDHW = whole.feature_maps(latents_BCHW)
        normed_BHWD = whole.norm(coarse_BDHW.permute(0, 2, 3, 1))
        (only_normed_BDHW,) = whole.forward_intermediates(latents_BCHW, indices=1, norm=True)
    torch.testing.assert_close(fine_BDHW, expected_fine_BDHW)
    torch.testing.assert_close(normed_BHWD.permute(0, 3, 1, 2), expected_coarse_BDHW)
    torch.testing.assert_close(only_normed_BDHW, expected_coarse_BDHW)


def test_every_weight_learns() -> None:
    model = small().train()
    model(torch.randn(4, 192, 16, 16)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
