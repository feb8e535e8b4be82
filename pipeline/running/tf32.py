"""TF32: float32 products whose inputs a GPU rounds to ten bits of mantissa, several times as fast."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import torch

_BACKENDS: Any = torch.backends
_RNN: Any = import_module("torch.backends.cudnn.rnn")  # which torch puts in the place of the module of that name
# torch keeps each under two names, of which the newer ones divide more finely; by the last a CPU's products go, too.
_NEWER = (_BACKENDS.cudnn.conv, _RNN, _BACKENDS.cuda.matmul, _BACKENDS.mkldnn.matmul)


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Within it convolutions and matrix products of float32 both go by TF32, where the GPU has it, or neither does.

    By itself torch lets convolutions do so, and matrix products not. What was set comes back behind it.
    """
    newer = [each.fp32_precision for each in _NEWER]
    convolutions = products = None
    with suppress(RuntimeError):  # where a program has set the newer names alone, the older ones cannot be read
        convolutions = torch.backends.cudnn.allow_tf32
    with suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    # Under the older names, for they set the newer ones too: what reads either finds the same.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        if convolutions is not None:
            torch.backends.cudnn.allow_tf32 = convolutions
        if products is not None:
            torch.set_float32_matmul_precision(products)
        for each, precision in zip(_NEWER, newer, strict=True):
            each.fp32_precision = precision
