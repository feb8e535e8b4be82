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

from ci2p_cache.errors import InputError

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def openvino_transform(transform: nn.Module, precision: str) -> Callable[[Tensor], Tensor]:
    """The same function as an analysis transform of convolutions and GDNs: float32 [B, 3, S, S] -> [B, C, H, W].

    `precision` is what products are taken in. Raises InputError where openvino is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise InputError(
            "--engine openvino: the package is not installed; pip install 'ci2p[openvino]', or use --engine torch"
        ) from error
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
        values = _convolution(values, layer) if isinstance(layer, nn.Conv2d) else _gdn(values, layer)
    return openvino.Model([values], [images], "analysis")


def _convolution(values: Any, layer: nn.Conv2d) -> Any:
    assert layer.bias is not None and not isinstance(layer.padding, str)
    return _affine(values, layer.weight, layer.bias, list(layer.stride), list(layer.padding))


def _gdn(values: Any, layer: nn.Module) -> Any:
    """x / sqrt(beta + gamma x^2), beta and gamma as CompressAI's layer makes them of what it stores."""
    from openvino import opset13 as ops

    gdn: Any = layer
    beta_C, gamma_CC = gdn.beta_reparam(gdn.beta), gdn.gamma_reparam(gdn.gamma)
    energies = _affine(ops.multiply(values, values), gamma_CC[:, :, None, None], beta_C, [1, 1], [0, 0])
    return ops.divide(values, ops.sqrt(energies))


def _affine(values: Any, weight: Tensor, bias: Tensor, strides: list[int], pads: list[int]) -> Any:
    from openvino import opset13 as ops

    kernel = ops.constant(weight.detach().numpy())
    shift = ops.constant(bias.detach().numpy().reshape(1, -1, 1, 1))
    return ops.add(ops.convolution(values, kernel, strides, pads, pads, [1, 1]), shift)
