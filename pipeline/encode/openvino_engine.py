"""The analysis transform on OpenVINO, quicker on a CPU than torch. The only import of openvino, an optional extra.

The network is put together here, operator by operator: openvino's own converters would report to their maker that
they were used.

Legend: B images, S image size, C channels, H = W = S / 16.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ci2p_cache.extras import not_installed
from pipeline.transforms import GDN

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def openvino_transform(transform: nn.Module, precision: str) -> Callable[[Tensor], Tensor]:
    """The same function as an analysis transform of convolutions and GDNs: float32 [B, 3, S, S] -> [B, C, H, W].

    `precision` is what products are taken in. Raises InputError where openvino is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise not_installed("openvino", "--engine openvino", error, instead="use --engine torch") from error
    network = openvino.Core().compile_model(
        _network(transform), "CPU", {"INFERENCE_PRECISION_HINT": _PRECISIONS[precision]}
    )

    def encode(images_B3SS: Tensor) -> Tensor:
        latents: Tensor = torch.from_numpy(network(images_B3SS.contiguous().numpy())[0])
        return latents

    return encode


def _network(transform: nn.Module) -> Any:
    import openvino
    from openvino import opset13 as ops

    images = ops.parameter([-1, 3, -1, -1], np.float32, name="images")
    values = images
    for layer in transform.children():
        assert isinstance(layer, nn.Conv2d | GDN)
        values = _convolution(values, layer) if isinstance(layer, nn.Conv2d) else _gdn(values, layer)
    return openvino.Model([values], [images], "analysis")


def _convolution(values: Any, layer: nn.Conv2d) -> Any:
    assert layer.bias is not None and not isinstance(layer.padding, str)
    return _affine(values, layer.weight, layer.bias, list(layer.stride), list(layer.padding))


def _gdn(values: Any, layer: GDN) -> Any:
    """x / sqrt(beta + gamma x^2)."""
    from openvino import opset13 as ops

    beta_C, gamma_CC = layer.used()
    energies = _affine(ops.multiply(values, values), gamma_CC[:, :, None, None], beta_C, [1, 1], [0, 0])
    return ops.divide(values, ops.sqrt(energies))


def _affine(values: Any, weight: Tensor, bias: Tensor, strides: list[int], pads: list[int]) -> Any:
    from openvino import opset13 as ops

    kernel = ops.constant(weight.detach().numpy())
    shift = ops.constant(bias.detach().numpy().reshape(1, -1, 1, 1))
    return ops.add(ops.convolution(values, kernel, strides, pads, pads, [1, 1]), shift)
