"""Complexity: parameters and multiply-accumulates of a model, counted by fvcore, the paper's figures beside them.

What is counted, as in the paper: a multiply-accumulate (MAC) of a convolution, a linear layer or an attention product
is one, an element of a LayerNorm five, an element of a BatchNorm at evaluation two. Activations, softmax, sums, means
and biases are not. The two products of attention, queries by keys and weights by values, are counted apart, because
the paper counts them for CI2P-ViT and ViT-B/16 and leaves them out for CI2P-ViT-ds.

A model that reads latents is reported with the encoder that makes them, as the paper does; what is left to do once
they are cached is its trained part. The encoder is counted from its architecture (`pipeline.transforms`).
"""

# H=W latent grid, S image size

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from ci2p_cache.errors import InputError
from ci2p_cache.extras import not_installed
from pipeline.models.model_factory import baseline_names, create_model, model_names, one_scale_names, reads_pixels
from pipeline.models.patch_reshape import LATENT_CHANNELS, STRIDE
from pipeline.models.variant import Variant
from pipeline.transforms import PIXEL_CHANNELS, PIXELS_PER_LATENT, AnalysisTransform

try:
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import get_shape
except ImportError as error:
    raise not_installed("complexity", "complexity", error) from error

PAPER_CLASSES = 10
_PAPER_PARAMS = {"ci2p_vit_base": 88_960_000, "ci2p_vit_ds": 49_700_000, "vit_base": 86_000_000}
_PAPER_GMACS = {
    "ci2p_vit_base": {256: 8.477, 384: 19.284, 512: 34.81},
    "ci2p_vit_ds": {256: 6.442, 384: 14.492, 512: 25.762},
    "vit_base": {256: 23.127, 384: 55.433, 512: 107.0},
}
_PIXELS_PER_TOKEN = PIXELS_PER_LATENT * STRIDE

# timm's attention is one fused operation, or two plain products where TIMM_FUSED_ATTN=0 turns that off.
_ATTENTION = ("scaled_dot_product_attention", "matmul")

_HEADINGS = ("model", "pixels", "parameters", "G MACs", "no attention", "encoder", "trained", "paper")


@dataclass(frozen=True)
class Complexity:
    """One model at one image size. MACs are in billions and of one image."""

    model: str
    image_size: int
    params: int
    """Of the whole, the encoder included."""
    gmacs: float
    """Of the whole, attention products included."""
    gmacs_without_attention: float
    gmacs_trained: float
    """Of the trained part: the whole of a model that reads pixels, all but the encoder of one that reads latents."""
    paper_params: int | None
    """The paper's, to its printed digits; None where it gives none, and where there are other
    classes than its 10 or tokens than its 64."""
    paper_gmacs: float | None
    """The paper's; it leaves the attention products out for ci2p_vit_ds alone."""


def measure(
    models: Sequence[str] = (), image_sizes: Sequence[int] = (256,), num_classes: int = PAPER_CLASSES, tokens: int = 64
) -> list[Complexity]:
    """Every model, by default all of ours that make so many `tokens` of a 256 x 256 image, at every image size.

    Each is run once, on the CPU and on zeros: seconds for the largest. Raises InputError for an image size that is no
    multiple of 32 and for a model that `create_model` refuses.
    """
    for size in image_sizes:
        if size <= 0 or size % _PIXELS_PER_TOKEN:
            raise InputError(f"--image-size {size} is no multiple of {_PIXELS_PER_TOKEN}; give 256, 384 or 512")
    ours = [*model_names(), *baseline_names()] if tokens == 64 else one_scale_names()
    names = models or ours
    return [_measure_one(name, size, num_classes, tokens) for name in names for size in image_sizes]


def _measure_one(name: str, image_size: int, num_classes: int, tokens: int) -> Complexity:
    grid = image_size // PIXELS_PER_LATENT
    pixels = reads_pixels(name)
    shape = (PIXEL_CHANNELS, image_size, image_size) if pixels else (LATENT_CHANNELS, grid, grid)
    with torch.device("meta"):
        model = create_model(name, num_classes=num_classes, input_shape=shape, variant=Variant(tokens=tokens))
    trained = _count(model, shape)
    encoder = _Count(0, 0, 0) if pixels else _count_encoder(image_size)
    as_in_paper = num_classes == PAPER_CLASSES and tokens == 64
    return Complexity(
        model=name,
        image_size=image_size,
        params=trained.params + encoder.params,
        gmacs=(trained.macs + encoder.macs) / 1e9,
        gmacs_without_attention=(trained.macs - trained.attention_macs + encoder.macs) / 1e9,
        gmacs_trained=trained.macs / 1e9,
        paper_params=_PAPER_PARAMS.get(name) if as_in_paper else None,
        paper_gmacs=_PAPER_GMACS.get(name, {}).get(image_size) if as_in_paper else None,
    )


def table(measured: Sequence[Complexity]) -> list[str]:
    """Lines for people: ours, the paper's beside them."""
    rows = [_HEADINGS, *map(_row, measured)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    names = [row[0].ljust(widths[0]) for row in rows]
    figures = [[cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)] for row in rows]
    with torch.device("meta"):
        encoder_params = _num_params(AnalysisTransform())
    return [
        *("  ".join([name, *cells]) for name, cells in zip(names, figures, strict=True)),
        "G MACs: billions of multiply-accumulates an image, LayerNorm counted as 5 an element. `no attention` leaves",
        "out the two products of attention, as the paper does for ci2p_vit_ds alone. Where there is an encoder, it is",
        f"frozen, and {encoder_params:,} of the parameters are its own.",
    ]


def _row(c: Complexity) -> tuple[str, ...]:
    encoder = c.gmacs - c.gmacs_trained
    paper = [f"{c.paper_params / 1e6:g} M" if c.paper_params else "", f"{c.paper_gmacs:g} G" if c.paper_gmacs else ""]
    return (
        c.model,
        str(c.image_size),
        f"{c.params:,}",
        f"{c.gmacs:.4f}",
        f"{c.gmacs_without_attention:.4f}",
        f"{encoder:.4f}" if encoder else "-",
        f"{c.gmacs_trained:.4f}",
        ", ".join(filter(None, paper)) or "-",
    )


@dataclass(frozen=True)
class _Count:
    params: int
    macs: int
    attention_macs: int


@cache
def _count_encoder(image_size: int) -> _Count:
    with torch.device("meta"):
        encoder = AnalysisTransform()
    return _count(encoder, (PIXEL_CHANNELS, image_size, image_size))


def _count(model: nn.Module, input_shape: tuple[int, int, int]) -> _Count:
    """Counts a model on the meta device, on one sample of float [C,H,W]."""
    params = _num_params(model)
    # Tracing needs memory behind the tensors; what is in it does not matter.
    model = model.to_empty(device="cpu").eval()
    for value in model.state_dict().values():
        value.zero_()
    analysis = FlopCountAnalysis(model, torch.zeros(1, *input_shape))
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with torch.inference_mode():
        macs = analysis.by_operator()
    return _Count(params, round(macs.total()), round(sum(macs[name] for name in _ATTENTION)))


def _num_params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """MACs of softmax(Q K') V for queries [...,n,d], keys [...,m,d] and values [...,m,v]: n m (d + v) a head."""
    queries, keys, values = (list[int](get_shape(value)) for value in inputs[:3])
    *heads, n, d = queries
    return math.prod(heads) * n * keys[-2] * (d + values[-1])
