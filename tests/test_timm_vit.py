"""timm's VisionTransformers on latents: what PatchReshape replaces, what stays, and where their weights come from."""

# B batch, N tokens, D width

import pipeline  # noqa: F401  (before timm: it sees to it that torchvision imports)

# isort: split
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ci2p_cache.errors import InputError
from pipeline.models import PatchReshape, create_model

NAMES = [
    "vit_tiny_patch16_224",
    "vit_base_patch32_clip_224",  # a norm before the blocks, no bias in the patch embedding
    "deit3_small_patch16_224",  # no position for the class token, scaled layers
    "deit_tiny_distilled_patch16_224",  # two heads
    "vit_small_patch14_reg4_dinov2",  # registers
    "vit_base_patch16_siglip_224",  # a pool that attends, no class token
    "vit_tiny_r_s16_p8_224",  # a patch embedding that is a network
    "aimv2_large_patch14_224",  # a norm in the patch embedding
    "vit_intern300m_patch14_448",  # any size
    "vit_base_patch16_rpn_224",  # norms behind the branches
    "vit_small_patch16_224.augreg_in21k",  # a name with the tag of its weights
]


def build(name: str, **settings: object) -> VisionTransformer:
    model = create_model(name, **({"num_classes": 7} | settings))  # type: ignore[arg-type]
    assert isinstance(model, VisionTransformer)
    return model


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Of every weight that neither PatchReshape nor the grid of tokens changes."""
    return {
        name: value.shape
        for name, value in model.state_dict().items()
        if name != "pos_embed" and (not name.startswith("patch_embed") or ("norm" in name and "blocks" not in name))
    }


@pytest.mark.parametrize("name", NAMES)
def test_patch_reshape_replaces_the_patch_embedding_and_nothing_else(name: str) -> None:
    with torch.device("meta"):
        original = timm.create_model(name, num_classes=7)
        for size in (16, 24):
            model = build(name, input_shape=(192, size, size), drop_path=0.1).eval()
            assert model(torch.empty(2, 192, size, size)).shape == (2, 7)
            tokens_BND = model.forward_features(torch.empty(2, 192, size, size))
            assert tokens_BND.shape == (2, (size // 2) ** 2 + original.num_prefix_tokens, original.embed_dim)
    assert isinstance(model.patch_embed, PatchReshape) and model.in_chans == 192
    kept = {key: shape for key, shape in shapes(original).items() if "backbone" not in key}
    assert shapes(model) == kept
    assert (model.pos_embed is None) == (original.pos_embed is None)
    assert model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.1)


def test_a_model_that_takes_any_size_still_does() -> None:
    """It asks its patch embedding for a grid, and adds its positions, resampled, to that."""
    model = build("test_vit").eval()
    assert model.dynamic_img_size
    for size in (16, 24):
        assert model(torch.randn(2, 192, size, size)).shape == (2, 7)


def test_fresh_positions_start_at_timm_s_scale() -> None:
    torch.manual_seed(0)
    model = build("vit_tiny_patch16_224")
    assert model.pos_embed.shape == (1, 65, 192)
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.no_weight_decay() >= {"pos_embed", "cls_token"}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """As timm publishes them: of vit_tiny_patch16_224 with its 1000 classes."""
    torch.manual_seed(5)
    state = timm.create_model("vit_tiny_patch16_224").state_dict()
    return {name: value + 0.1 * torch.randn_like(value) for name, value in state.items()}


@pytest.fixture(scope="module")
def file(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "vit_tiny.safetensors"
    save_file(weights, path)
    return str(path)


@pytest.mark.parametrize("num_classes", [7, 1000])
def test_pretrained_weights_are_everything_but_the_patch_embedding(
    weights: dict[str, Tensor], file: str, num_classes: int
) -> None:
    model = build("vit_tiny_patch16_224", num_classes=num_classes, pretrained=file)
    state = model.state_dict()
    compared = set(weights) - {"patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed"}
    if num_classes != 1000:
        compared -= {"head.weight", "head.bias"}
    for name in compared:
        assert torch.equal(state[name], weights[name]), name
    assert state["head.weight"].shape == (num_classes, 192)
    left = {name for name in state if name not in compared and not name.startswith(("patch_embed", "head"))}
    assert left == {"pos_embed"}


def test_weights_from_the_network_are_taken_as_those_of_a_file(
    weights: dict[str, Tensor], file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(repository: str, *arguments: object, **settings: object) -> dict[str, Tensor]:
        asked.append(repository)
        return dict(weights)

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", download)
    models = []
    for pretrained in (True, file):
        torch.manual_seed(0)
        models.append(build("vit_tiny_patch16_224.augreg_in21k_ft_in1k", pretrained=pretrained).state_dict())
    assert asked == ["timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[1])


def test_pretrained_positions_are_resampled_to_the_grid(weights: dict[str, Tensor], file: str) -> None:
    old_1ND = weights["pos_embed"]
    for size in (16, 24):
        new_1ND = build("vit_tiny_patch16_224", input_shape=(192, size, size), pretrained=file).pos_embed
        assert torch.equal(new_1ND[:, 0], old_1ND[:, 0])  # the class token's stays
        old_1Dhw = old_1ND[:, 1:].transpose(1, 2).reshape(1, 192, 14, 14)
        expected_1Dhw = interpolate(old_1Dhw, size=(size // 2, size // 2), mode="bicubic", antialias=True)
        torch.testing.assert_close(new_1ND[:, 1:].transpose(1, 2).reshape(expected_1Dhw.shape), expected_1Dhw)


def test_patch_reshape_does_not_depend_on_the_weights(file: str) -> None:
    """It is drawn from the generator, with pretrained weights and without."""
    models = []
    for pretrained in (False, file):
        torch.manual_seed(0)
        models.append(build("vit_tiny_patch16_224", num_classes=1000, pretrained=pretrained))
    ours = [model.patch_embed.blocks[1].project.conv.weight for model in models]
    assert ours[0].std().item() == pytest.approx(ours[1].std().item(), rel=0.02)


def test_weights_that_do_not_fit_are_refused(weights: dict[str, Tensor], file: str, tmp_path: Path) -> None:
    lacking = {name: value for name, value in weights.items() if "blocks.3" not in name}
    save_file(lacking, tmp_path / "lacking.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(Path(file).read_bytes()[:1000])
    (tmp_path / "damaged.pth").write_bytes(b"no checkpoint")
    where = r"they are https://huggingface.co/timm/vit_tiny_patch16_224\S*/model.safetensors"
    for name in ("lacking.safetensors", "damaged.safetensors", "damaged.pth"):
        with pytest.raises(InputError, match=rf"{name}' does not hold timm's weights of vit_tiny.*{where}") as info:
            build("vit_tiny_patch16_224", pretrained=str(tmp_path / name))
        assert "\n" not in str(info.value)
    with pytest.raises(InputError, match="does not hold timm's weights of deit3_small_patch16_224"):
        build("deit3_small_patch16_224", pretrained=file)
    with pytest.raises(InputError, match=r"pretrained = 'nowhere.pth': no such file"):
        build("vit_tiny_patch16_224", pretrained="nowhere.pth")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet50", {}, "'resnet50' is no VisionTransformer, .* such as vit_small_patch16_224, or one of ci2p_vit_"),
        ("swin_tiny_patch4_window7_224", {}, "'swin_tiny_patch4_window7_224' is no VisionTransformer"),
        ("vit_small_patch16_dinov3", {}, "'vit_small_patch16_dinov3' is no VisionTransformer"),
        ("vit_small_patch16_242", {}, r"is unknown; did you mean 'vit_small_patch16_224'\?"),
        ("zzzzzz", {}, "is unknown; known: ci2p_vit_base, .*, and timm's VisionTransformers"),
        ("vit_small_patch16_224.augreg", {}, r"no such weights of vit_small_patch16_224; did you mean '.*\.augreg_in"),
        ("vit_small_resnet50d_s16_224", {"pretrained": True}, "timm has no weights for vit_small_resnet50d_s16_224"),
        ("ci2p_vit_tiny", {"pretrained": True}, "ci2p_vit_tiny has no published weights; leave it out, or name a Vi"),
        ("vit_base", {"pretrained": "a.pth"}, "vit_base has no published weights"),
    ],
)
def test_other_names_are_refused_with_the_way_out(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as info:
        build(name, **settings)
    assert "\n" not in str(info.value)
