"""Images or latents through a trained model, a batch at a time: probabilities, or what the classifier reads.

Legend: N images, B batch, K classes, D width, C, H, W of a latent.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ci2p_cache.cache import Cache
from ci2p_cache.errors import InputError
from ci2p_cache.loader import PLAIN_VIEW, BatchLoader
from pipeline.api.sources import Sources
from pipeline.encode.preprocess import BadImage, load_pixels
from pipeline.evaluate.images import Rendering
from pipeline.running.finite import refuse_non_finite_outputs
from pipeline.train.window import ThroughWindow, centre_window

Output = Callable[[nn.Module, Tensor], Tensor]


def probabilities(model: nn.Module, inputs_BCHW: Tensor) -> Tensor:
    """float32 [B, K]."""
    logits: Tensor = model(inputs_BCHW)
    return logits.float().softmax(-1)


def pooled(model: nn.Module, inputs_BCHW: Tensor) -> Tensor:
    """What the classifier reads, float32 [B, D]."""
    if isinstance(model, ThroughWindow):
        inputs_BCHW = centre_window(inputs_BCHW, model.size)
        model = model.model
    timm_model: Any = model
    features: Tensor = timm_model.forward_head(timm_model.forward_features(inputs_BCHW), pre_logits=True)
    return features.float()


def of_images(
    model: nn.Module, rendering: Rendering, sources: Sources, output: Output, batch_size: int
) -> NDArray[np.float32]:
    """An output of every image, [N, ...]. Raises InputError for one that cannot be used, naming it."""
    return _stacked((output(model, inputs) for inputs in _inputs(rendering, sources, batch_size)), sources.names)


def of_cache(
    model: nn.Module, cache: Cache, device: torch.device, output: Output, batch_size: int
) -> NDArray[np.float32]:
    """An output of every sample's plain view, in order, [N, ...]."""
    loader = BatchLoader(cache, batch_size=batch_size, device=device, shuffle=False, resident="off", view=PLAIN_VIEW)
    return _stacked((output(model, batch.latents) for batch in loader.epoch(0)), cache.read_keys())


@torch.inference_mode()
def _stacked(outputs: Iterator[Tensor], names: Sequence[str]) -> NDArray[np.float32]:
    """Raises WorkError, with its name, for an output that is no number."""
    parts: list[NDArray[np.float32]] = []
    for output in outputs:
        begin = sum(map(len, parts))
        refuse_non_finite_outputs(output, lambda row, begin=begin: names[begin + row])  # type: ignore[misc]
        parts.append(output.cpu().numpy())
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


def _inputs(rendering: Rendering, sources: Sources, batch_size: int) -> Iterator[Tensor]:
    preprocessing, views = rendering.preprocessing, rendering.views[:1]
    for begin in range(0, len(sources.names), batch_size):
        pixels = []
        for name, read in zip(
            sources.names[begin : begin + batch_size], sources.reads[begin : begin + batch_size], strict=True
        ):
            try:
                pixels.append(load_pixels(read(), preprocessing))
            except BadImage as error:
                raise InputError(f"{name}: {error.reason}; give the path of an image file") from error
        yield rendering.inputs(torch.from_numpy(np.stack(pixels)), views)[:, 0]
