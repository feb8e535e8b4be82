"""The stages: `encode` turns images into a cache, `train` turns a cache into a model, `evaluate` measures it."""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _TorchvisionFinder(MetaPathFinder):
    """Lets torchvision be imported even where its compiled operators do not match the installed torch.

    timm and CompressAI import torchvision. A torchvision wheel built for CUDA beside a CPU-only torch fails on import
    with "operator torchvision::nms does not exist". Nothing here calls its operators, so that declaring the
    two that it registers shapes for is enough. Any other failure is left to surface by itself. Until somebody imports
    torchvision, nothing is done.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torchvision":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _TorchvisionLoader(spec.loader)
        return spec


class _TorchvisionLoader(Loader):
    """Runs torchvision, and once more with its operators declared if they are what it lacks."""

    def __init__(self, loader: Loader):
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        try:
            self._loader.exec_module(module)
        except RuntimeError as error:
            if "torchvision::nms" not in str(error):
                raise
            import torch

            for name in [name for name in sys.modules if name.startswith("torchvision.")]:
                del sys.modules[name]
            torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            torch.library.define("torchvision::qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            self._loader.exec_module(module)


sys.meta_path.insert(0, _TorchvisionFinder())
