"""The stages: `encode` turns images into a cache, `train` turns a cache into a model, `evaluate` measures it."""

import sys

import torch


def _import_torchvision() -> None:
    """Imports torchvision even where its compiled operators do not match the installed torch.

    CompressAI and timm import torchvision. A torchvision wheel built for CUDA beside a CPU-only torch fails on import
    with "operator torchvision::nms does not exist". Nothing here calls its operators, so that declaring the
    two that it registers shapes for is enough. Any other failure is left to surface by itself.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torch.library.define("torchvision::qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401


_import_torchvision()
