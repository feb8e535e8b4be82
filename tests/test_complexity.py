"""Parameters and MACs against the paper, against a count by hand, and through the command."""

# ruff: noqa: E402

import pipeline  # noqa: F401  (before timm: it sees to it that torchvision imports)

# isort: split
import json
from pathlib import Path

import pytest
import timm.layers
import torch

FlopCountAnalysis = pytest.importorskip("fvcore.nn", reason="needs the extra [complexity]").FlopCountAnalysis

# isort: split
from ci2p_cache.errors import InputError
from pipeline.models import baseline_names, create_model, model_names, reads_pixels
from pipeline.models.complexity import Complexity, measure, table
from tests.conftest import REPOSITORY, call_ci2p

SIZES = (256, 384, 512)
# The paper's second decimal and beyond, as rebuilt and counted: with the attention products, and without.
GMACS = {"ci2p_vit_base": (8.4765, 19.2834, 34.8093), "ci2p_vit_ds": (6.6298, 15.4463, 28.7804)}
GMACS_WITHOUT_ATTENTION = {"ci2p_vit_ds": (6.4411, 14.4908, 25.7605)}
PARAMS = {"ci2p_vit_base": 88_964_010, "ci2p_vit_ds": 49_707_114}


@pytest.fixture(scope="module")
def ours() -> dict[tuple[str, int], Complexity]:
    return {(each.model, each.image_size): each for each in measure(list(PARAMS), SIZES)}


@pytest.mark.parametrize("name", PARAMS)
def test_the_paper_s_models(ours: dict[tuple[str, int], Complexity], name: str) -> None:
    for size, gmacs in zip(SIZES, GMACS[name], strict=True):
        assert ours[name, size].params == PARAMS[name]
        assert ours[name, size].gmacs == pytest.approx(gmacs, abs=5e-5)
    for size, gmacs in zip(SIZES, GMACS_WITHOUT_ATTENTION.get(name, ()), strict=False):
        assert ours[name, size].gmacs_without_attention == pytest.approx(gmacs, abs=5e-5)


def test_what_the_paper_prints(ours: dict[tuple[str, int], Complexity]) -> None:
    """Within 0.02 % of its figures; for ds those without the attention products."""
    for (name, _), each in ours.items():
        counted = each.gmacs_without_attention if name == "ci2p_vit_ds" else each.gmacs
        assert each.paper_gmacs is not None and each.paper_params is not None
        assert counted == pytest.approx(each.paper_gmacs, rel=2e-4)
        assert each.params == pytest.approx(each.paper_params, abs=5e4 if name == "ci2p_vit_ds" else 5e3)


def test_four_times_the_tokens_cost_about_four_times() -> None:
    few, many = (measure(["ci2p_vit_tiny"], tokens=tokens)[0] for tokens in (64, 256))
    assert many.params == few.params
    assert many.gmacs - many.gmacs_trained == pytest.approx(few.gmacs - few.gmacs_trained)
    assert 3 < many.gmacs_trained / few.gmacs_trained < 4.5
    assert {each.model for each in measure(tokens=256)} == {f"ci2p_vit_{w}" for w in ("tiny", "small", "base", "large")}


def test_the_encoder_and_the_trained_part(ours: dict[tuple[str, int], Complexity]) -> None:
    for name, trained in (("ci2p_vit_base", 5.7125), ("ci2p_vit_ds", 3.8658)):
        each = ours[name, 256]
        assert each.gmacs_trained == pytest.approx(trained, abs=5e-5)
        assert each.gmacs - each.gmacs_trained == pytest.approx(2.7640, abs=5e-5)
    for size in SIZES:  # convolutions all the way: the encoder's cost is its area's
        encoder = ours["ci2p_vit_base", size].gmacs - ours["ci2p_vit_base", size].gmacs_trained
        assert encoder == pytest.approx(2.764046336 * (size / 256) ** 2, rel=1e-9)


@pytest.mark.parametrize(("size", "gmacs", "printed"), [(256, 23.127, 5e-4), (384, 55.433, 5e-4), (512, 107.0, 0.5)])
def test_the_paper_s_baseline(size: int, gmacs: float, printed: float) -> None:
    (each,) = measure(["vit_base"], [size])
    assert each.gmacs == pytest.approx(gmacs, abs=printed)
    assert each.gmacs == each.gmacs_trained and each.paper_gmacs == gmacs
    assert each.params == pytest.approx(86e6, abs=5e5)


@pytest.mark.parametrize("fused", [True, False])
def test_a_count_by_hand(fused: bool) -> None:
    """ViT-Ti/32 at 256 pixels: N = 64 tokens of width D = 192, twelve blocks."""
    n, d = 64, 192
    attention = 12 * 2 * n * n * d
    linear = 12 * n * (3 * d * d + d * d + 2 * 4 * d * d)
    rest = n * d * 3 * 32 * 32 + 25 * 5 * n * d + d * 10
    timm.layers.set_fused_attn(fused)
    try:
        (each,) = measure(["vit_tiny_p32"])
    finally:
        timm.layers.set_fused_attn(True)
    assert round(each.gmacs * 1e9) == attention + linear + rest
    assert round(each.gmacs_without_attention * 1e9) == linear + rest


@pytest.mark.parametrize("name", ["ci2p_vit_tiny", "ci2p_vit_ds", "cnn_vit_tiny", "vit_tiny_p32"])
def test_nothing_with_a_product_goes_uncounted(name: str) -> None:
    shape = (3, 32, 32) if reads_pixels(name) else (192, 2, 2)
    model = create_model(name, num_classes=10, input_shape=shape).eval()
    analysis = FlopCountAnalysis(model, torch.zeros(1, *shape))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    assert analysis.total() > 0
    elementwise = {"add", "gelu", "hardsigmoid", "hardswish", "mean", "mul", "pow", "rsqrt", "sub"}
    uncounted = {operator.removeprefix("aten::") for operator in analysis.unsupported_ops()}
    assert uncounted - {"PythonOp", "prim::PythonOp._AtLeast"} <= elementwise | {"scaled_dot_product_attention"}


def test_the_paper_s_figures_are_for_its_ten_classes() -> None:
    (ten,) = measure(["ci2p_vit_base"], [32])
    (thousand,) = measure(["ci2p_vit_base"], [32], num_classes=1000)
    assert thousand.params - ten.params == 990 * 769
    assert (thousand.paper_params, thousand.paper_gmacs) == (None, None)
    assert (ten.paper_params, ten.paper_gmacs) == (88_960_000, None)


def test_the_page_s_table_is_what_is_counted(ours: dict[tuple[str, int], Complexity]) -> None:
    page = (REPOSITORY / "docs/models.md").read_text().partition("## Parameters and multiply-accumulates")[2]
    cells = [line.split("|")[1:] for line in page.splitlines() if line.startswith("| `")]
    rows = {row[0].strip(" `"): row[1:] for row in cells}
    assert sorted(rows) == sorted([*model_names(), *baseline_names()])
    counted = {name: [ours[name, size] for size in SIZES] for name in PARAMS}
    for name, sizes in (counted | {each.model: [each] for each in measure(["resnet18", "resnet50d"])}).items():
        assert rows[name][0].strip() == f"{sizes[0].params:,}"
        for cell, figures in ((1, [s.gmacs for s in sizes]), (2, [s.gmacs_trained for s in sizes])):
            assert rows[name][cell].strip().startswith(" / ".join(f"{figure:.2f}" for figure in figures)), name


def test_the_command_measures_every_model(tmp_path: Path) -> None:
    finished = call_ci2p("complexity", "--image-size", "32", "--json", "all.json", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    measured = json.loads((tmp_path / "all.json").read_text())
    assert [each["model"] for each in measured] == [*model_names(), *baseline_names()]
    assert set(measured[0]) == {
        *("model", "image_size", "params", "gmacs", "gmacs_without_attention"),
        *("gmacs_trained", "paper_params", "paper_gmacs"),
    }
    assert "88,964,010" in finished.stdout and finished.stderr == ""


def test_the_table_puts_the_paper_beside_ours(ours: dict[tuple[str, int], Complexity]) -> None:
    lines = table(list(ours.values()))
    (line,) = [line for line in lines if line.startswith("ci2p_vit_ds") and " 256 " in line]
    assert " ".join(line.split()) == "ci2p_vit_ds 256 49,707,114 6.6298 6.4411 2.7640 3.8658 49.7 M, 6.442 G"
    assert "1,493,312" in lines[-1]


def test_any_timm_vit_can_be_measured_and_nothing_else(tmp_path: Path) -> None:
    arguments = ("--model", "vit_tiny_patch16_224", "--image-size", "32", "--image-size", "64", "--json", "-")
    small, large = json.loads(call_ci2p("complexity", *arguments, cwd=tmp_path).stdout)
    assert (small["model"], small["image_size"], large["image_size"]) == ("vit_tiny_patch16_224", 32, 64)
    assert small["gmacs"] > small["gmacs_trained"] > 0
    assert large["params"] - small["params"] == 3 * 192  # a position for each further token
    with pytest.raises(InputError, match="--image-size 250 is no multiple of 32"):
        measure(["ci2p_vit_tiny"], [250])
    assert "'resnet50' is no VisionTransformer" in call_ci2p("complexity", "--model", "resnet50", cwd=tmp_path).stderr
