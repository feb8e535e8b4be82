"""The models against the paper: parameter counts to the digit, and PatchReshape against a computation by hand."""

# B batch, C latent channels (192), H=W latent grid (16), N tokens, D width

import pipeline  # noqa: F401  (before timm: it sees to it that torchvision imports)

# isort: split
import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ci2p_cache.errors import InputError
from pipeline.models import (
    InvertedResidual,
    PatchReshape,
    Variant,
    baseline_names,
    create_model,
    model_names,
    reads_pixels,
)
from pipeline.models.inverted_residual import DepthwiseConv

PAPER_PARAMS = 88_964_010
PAPER_DS_PARAMS = 49_707_114
ENCODER_PARAMS = 1_493_312

Array = NDArray[np.float64]


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("ci2p_vit_base", PAPER_PARAMS - ENCODER_PARAMS),
        ("ci2p_vit_ds", PAPER_DS_PARAMS - ENCODER_PARAMS),
        ("ci2p_vit_large", 305_024_106),
        ("ci2p_vit_small", 23_262_058),
        ("ci2p_vit_tiny", 7_082_986),
    ],
)
def test_parameter_counts(name: str, params: int) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=10)
    assert sum(parameter.numel() for parameter in model.parameters()) == params


def test_the_paper_s_shape_of_the_base_model() -> None:
    with torch.device("meta"):
        model = create_model("ci2p_vit_base", num_classes=10, drop_path=0.1)
    assert model.pos_embed is None and model.cls_token is None and model.reg_token is None
    assert isinstance(model.norm, nn.LayerNorm) and model.norm.eps == 1e-6
    assert isinstance(model.fc_norm, nn.Identity)
    assert len(model.blocks) == 12
    for block in model.blocks:
        assert block.attn.num_heads == 12 and block.attn.qkv.bias is not None
        assert block.norm1.eps == block.norm2.eps == 1e-6
        assert block.mlp.fc1.out_features == 3072
        assert isinstance(block.mlp.act, nn.GELU) and block.mlp.act.approximate == "none"
    assert model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.1)
    assert isinstance(model.blocks[0].drop_path1, nn.Identity)


@pytest.mark.parametrize("name", [*model_names(), *baseline_names()])
def test_every_model_is_built_for_every_image_size_and_is_timm_s_by_name(name: str) -> None:
    with torch.device("meta"):
        for size in (256, 384, 512):
            shape = (3, size, size) if reads_pixels(name) else (192, size // 16, size // 16)
            model = create_model(name, num_classes=7, input_shape=shape, drop_path=0.1).train()
            assert model(torch.empty(2, *shape)).shape == (2, 7)
        by_timm = timm.create_model(name, num_classes=10)
        assert by_timm.get_classifier().out_features == 10
        by_timm.reset_classifier(3)
        assert by_timm.num_classes == by_timm.get_classifier().out_features == 3


@pytest.mark.parametrize("size", [16, 24, 32])
def test_one_model_takes_every_grid(size: int) -> None:
    model = create_model("ci2p_vit_tiny", num_classes=7).eval()
    latents_BCHW = torch.randn(2, 192, size, size)
    assert model.patch_embed(latents_BCHW).shape == (2, size * size // 4, 192)
    assert model(latents_BCHW).shape == (2, 7)


def test_the_grid_is_known_before_the_first_latent() -> None:
    model = create_model("ci2p_vit_tiny", num_classes=7, input_shape=(192, 24, 24))
    assert model.patch_embed.grid_size == (12, 12) and model.patch_embed.num_patches == 144


def test_256_tokens_are_the_same_weights_at_every_latent() -> None:
    few = create_model("ci2p_vit_small", num_classes=7)
    many = create_model("ci2p_vit_small", num_classes=7, variant=Variant(tokens=256)).eval()
    many.load_state_dict(few.state_dict())
    latents_BCHW = torch.randn(2, 192, 16, 16)
    with torch.no_grad():
        fine_BNHW = many.patch_embed(latents_BCHW).transpose(1, 2).unflatten(2, (16, 16))
        coarse_BNHW = few.eval().patch_embed(latents_BCHW).transpose(1, 2).unflatten(2, (8, 8))
        assert many.patch_embed.grid_size == (16, 16) and many(latents_BCHW).shape == (2, 7)
    # At the positions where both convolve; the gate of each is a mean over its own grid, and thus a little other.
    close = torch.nn.functional.cosine_similarity(fine_BNHW[:, :, ::2, ::2], coarse_BNHW, dim=1)
    assert close.min() > 0.98 and not torch.equal(fine_BNHW[:, :, ::2, ::2], coarse_BNHW)


@pytest.mark.parametrize("name", ["ci2p_vit_ds", "vit_base", "vit_small_patch16_224"])
def test_256_tokens_are_of_models_of_one_scale(name: str) -> None:
    with pytest.raises(InputError, match=rf"tokens = 256 with model '{name}': .* leave tokens at 64"):
        create_model(name, num_classes=7, variant=Variant(tokens=256))
    with pytest.raises(InputError, match=rf"registers = 4 with model '{name}': .* leave registers at 0"):
        create_model(name, num_classes=7, variant=Variant(registers=4))


def test_a_variant_is_the_paper_s_model_and_what_it_names() -> None:
    variant = Variant(class_token=True, registers=4, pos_embed="learn", layer_scale=1e-4)
    plain = create_model("ci2p_vit_tiny", num_classes=7).state_dict()
    model = create_model("ci2p_vit_tiny", num_classes=7, variant=variant).eval()
    more = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in plain}
    scales = {f"blocks.{block}.ls{branch}.gamma": (192,) for block in range(12) for branch in (1, 2)}
    assert more == {"cls_token": (1, 1, 192), "reg_token": (1, 4, 192), "pos_embed": (1, 69, 192)} | scales
    with torch.no_grad():
        latents_BCHW = torch.randn(2, 192, 16, 16)
        tokens_BND = model.forward_features(latents_BCHW)
        assert tokens_BND.shape == (2, 69, 192)  # the class token, the registers, the image
        assert torch.equal(model(latents_BCHW), model.head(tokens_BND[:, 0]))
        registers = create_model("ci2p_vit_tiny", num_classes=7, variant=Variant(registers=4)).eval()
        tokens_BND = registers.forward_features(latents_BCHW)
        assert torch.allclose(registers(latents_BCHW), registers.head(tokens_BND[:, 4:].mean(1)), atol=1e-6)


def test_the_order_of_tokens_does_not_matter() -> None:
    """Without positional embedding or class token, blocks, norm and mean see a set of tokens."""
    torch.manual_seed(0)
    model = create_model("ci2p_vit_tiny", num_classes=5).eval()
    with torch.no_grad():
        tokens_BND = model.patch_embed(torch.randn(2, 192, 16, 16))
        logits = [
            model.forward_head(model.norm(model.blocks(tokens_BND[:, order])))
            for order in (torch.arange(64), torch.randperm(64))
        ]
    torch.testing.assert_close(logits[0], logits[1])


def test_norm_comes_before_the_mean() -> None:
    model = create_model("ci2p_vit_tiny", num_classes=5).eval()
    nn.init.normal_(model.head.weight)
    latents_BCHW = torch.randn(2, 192, 16, 16)
    with torch.no_grad():
        tokens_BND = model.blocks(model.patch_embed(latents_BCHW))
        centred = tokens_BND - tokens_BND.mean(-1, keepdim=True)
        normed = centred / (tokens_BND.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        expected = normed.mean(1) @ model.head.weight.T + model.head.bias
        torch.testing.assert_close(model(latents_BCHW), expected, rtol=1e-4, atol=1e-4)


def test_tokens_run_row_by_row() -> None:
    model = create_model("ci2p_vit_tiny", num_classes=5).eval()
    latents_BCHW = torch.randn(1, 192, 16, 16)
    moved_BCHW = latents_BCHW.clone()
    moved_BCHW[:, :, 0, 15] += 100.0  # the top right corner: of the 8 x 8 tokens, number 7 and its neighbours
    with torch.no_grad():
        embed = model.patch_embed
        embed.blocks[0].squeeze_excite.gate = embed.blocks[1].squeeze_excite.gate = nn.Identity()
        embed.blocks[0].squeeze_excite.expand.weight.zero_()
        embed.blocks[1].squeeze_excite.expand.weight.zero_()
        embed.blocks[0].squeeze_excite.expand.bias.fill_(1.0)
        embed.blocks[1].squeeze_excite.expand.bias.fill_(1.0)
        change_N = (embed(moved_BCHW) - embed(latents_BCHW)).abs().sum((0, 2))
    assert change_N.argmax() == 7
    assert set(change_N.nonzero().flatten().tolist()) <= {6, 7, 14, 15}


def test_patch_reshape_in_a_timm_vit_with_learned_positions() -> None:
    """PatchReshape as timm's own `embed_layer`, beside a class token and pos_embed."""
    model = timm.create_model(
        "vit_tiny_patch16_224", embed_layer=PatchReshape, img_size=16, patch_size=2, in_chans=192, num_classes=3
    )
    assert model.pos_embed.shape == (1, 65, 192)
    assert model.eval()(torch.randn(2, 192, 16, 16)).shape == (2, 3)
    dynamic = timm.create_model(
        "vit_tiny_patch16_224",
        embed_layer=PatchReshape,
        img_size=16,
        patch_size=2,
        in_chans=192,
        num_classes=3,
        dynamic_img_size=True,
    )
    assert dynamic.eval()(torch.randn(2, 192, 24, 24)).shape == (2, 3)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_inverted_residual_by_hand(kernel_size: int, stride: int) -> None:
    torch.manual_seed(kernel_size * 10 + stride)
    block = InvertedResidual(6, 12, 6, kernel_size, stride).double()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(value)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias)
    x_BCHW = torch.randn(2, 6, 7, 8, dtype=torch.float64)
    expected = _block_by_hand(block.state_dict(), x_BCHW.numpy(), kernel_size, stride)
    with torch.no_grad():
        y_BCHW = block.eval()(x_BCHW).numpy()
    assert y_BCHW.shape == expected.shape == (2, 6, -(-7 // stride), -(-8 // stride))
    np.testing.assert_allclose(y_BCHW, expected, rtol=1e-9, atol=1e-9)


def _block_by_hand(state: dict[str, Tensor], x: Array, kernel_size: int, stride: int) -> Array:
    """The block in plain numpy, from the paper's description alone."""
    weights = {name: value.numpy() for name, value in state.items()}

    def norm(y: Array, name: str) -> Array:
        mean, var = weights[f"{name}.norm.running_mean"], weights[f"{name}.norm.running_var"]
        scale, shift = weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"]
        column = (slice(None), None, None)
        return (y - mean[column]) / np.sqrt(var[column] + 1e-5) * scale[column] + shift[column]

    def pointwise(y: Array, weight: Array) -> Array:
        return np.einsum("oi,bihw->bohw", weight[:, :, 0, 0], y)

    def hard_sigmoid(y: Array) -> Array:
        return np.clip((y + 3) / 6, 0, 1)

    y = norm(pointwise(x, weights["expand.conv.weight"]), "expand")
    y = y * hard_sigmoid(y)
    pad = kernel_size // 2
    padded = np.pad(y, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel_size, kernel_size), axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride]
    y = np.einsum("bchwij,cij->bchw", windows, weights["depthwise.conv.weight"][:, 0])
    y = norm(y, "depthwise")
    y = y * hard_sigmoid(y)
    gates = y.mean((2, 3), keepdims=True)
    gates = pointwise(gates, weights["squeeze_excite.reduce.weight"])
    gates = np.maximum(gates + weights["squeeze_excite.reduce.bias"][:, None, None], 0)
    gates = pointwise(gates, weights["squeeze_excite.expand.weight"])
    gates = hard_sigmoid(gates + weights["squeeze_excite.expand.bias"][:, None, None])
    assert weights["squeeze_excite.reduce.weight"].shape[0] == y.shape[1] // 4
    y = norm(pointwise(y * gates, weights["project.conv.weight"]), "project")
    return x + y if stride == 1 else y


def test_every_weight_starts_sensibly_and_timm_does_not_undo_it() -> None:
    torch.manual_seed(0)
    model = create_model("ci2p_vit_tiny", num_classes=10)
    for attempt in range(2):
        first, second = model.patch_embed.blocks
        assert first.expand.conv.weight.std().item() == pytest.approx((2 / 768) ** 0.5, rel=0.05)
        assert first.depthwise.conv.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
        assert second.depthwise.conv.weight.std().item() == pytest.approx((2 / 25) ** 0.5, rel=0.05)
        assert second.squeeze_excite.reduce.bias.abs().max() == 0
        assert model.blocks[0].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.1)
        if attempt == 0:
            model.init_weights()  # timm's own way to start afresh


def test_tokens_start_at_unit_scale() -> None:
    """A latent's values span hundreds; the first normalisation must bring them down before the blocks see them."""
    torch.manual_seed(0)
    model = create_model("ci2p_vit_tiny", num_classes=10).train()
    tokens_BND = model.patch_embed(30 * torch.randn(4, 192, 16, 16))
    assert 0.5 < tokens_BND.std().item() < 2.0


def test_unknown_model_names_the_nearest() -> None:
    assert model_names() == [f"ci2p_vit_{name}" for name in ("base", "ds", "large", "small", "tiny")]
    with pytest.raises(InputError, match=r"'ci2p_vit_bsae' is unknown; did you mean 'ci2p_vit_base'\?"):
        create_model("ci2p_vit_bsae", num_classes=10)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("vit_base", (192, 16, 16), r"reads pixels, .* latents \[192, 16, 16\]; .*`ci2p baseline --model vit_base`"),
        ("ci2p_vit_base", (3, 256, 256), r"reads latents, .* pixels \[3, 256, 256\]; .* vit_tiny_p32"),
        ("vit_small_patch16_224", (3, 256, 256), r"'vit_small_patch16_224' reads latents"),
    ],
)
def test_latents_and_pixels_are_not_mistaken_for_each_other(
    name: str, shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        create_model(name, num_classes=10, input_shape=shape)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_depthwise_convolution_on_the_cpu_computes_in_float32_and_keeps_the_dtype(stride: int) -> None:
    conv = DepthwiseConv(8, 5, stride)
    torch.nn.init.normal_(conv.weight)
    x = torch.randn(2, 8, 6, 6, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
        y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16 and x.grad is not None
    exact = torch.nn.functional.conv2d(x.detach().float(), conv.weight, stride=stride, padding=2, groups=8)
    assert torch.equal(y, exact.to(torch.bfloat16))  # rounded once, at the end
    assert torch.equal(conv(x.detach().float()), exact)
