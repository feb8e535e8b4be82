"""What is exported: everything between an image's pixels and the probabilities of its classes, as one module.

pixels [B,3,S,S] -> encoder -> latents, rounded as the cache rounds them -> window -> ViT -> softmax [B,K]
"""

# B batch, S image size, C latent channels (192), H=W latent grid, K classes

from typing import cast

import torch
from torch import Tensor, nn

from ci2p_cache.codecs import Store
from ci2p_cache.spec import spec_of_record
from pipeline.baselines.pixel_spec import is_pixels
from pipeline.encode.encoder import Encoder
from pipeline.export.record import Reads
from pipeline.train.run_folder import DataRecord

_EXAMPLES = 2  # with a batch of one, torch.export would take the batch for a constant


class Probabilities(nn.Module):
    """What a model reads -> float32 [B,K]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs_BCHW: Tensor) -> Tensor:
        """float32 latents or pixels [B,C,H,W] -> float32 [B,K] that sum to 1."""
        logits_BK: Tensor = self.model(inputs_BCHW)
        return logits_BK.float().softmax(-1)


class Stored(nn.Module):
    """Latents as a cache gives them back: rounded to its step, or through float16."""

    def __init__(self, store: Store, step: float | None) -> None:
        super().__init__()
        self.store = store
        self.step = step

    def forward(self, latents_BCHW: Tensor) -> Tensor:
        """float32 [B,C,H,W] -> float32 [B,C,H,W]; halves go to the even neighbour, as in `ci2p_cache.codecs`."""
        if self.store == "float16":
            return latents_BCHW.half().float()
        assert self.step is not None
        return torch.round(latents_BCHW / self.step) * self.step


class ImagesToInputs(nn.Module):
    """Pixels -> what the model reads."""

    def __init__(self, to_inputs: nn.Module, reads: Reads) -> None:
        super().__init__()
        self.to_inputs = to_inputs
        self.reads = reads

    def forward(self, images_B3SS: Tensor) -> Tensor:
        """uint8 RGB, or float32 RGB in [0, 1], as `reads` says: [B,3,S,S] -> float32 [B,C,H,W]."""
        pixels_B3SS = images_B3SS.float() / 255 if self.reads == "uint8" else images_B3SS
        inputs_BCHW: Tensor = self.to_inputs(pixels_B3SS)
        return inputs_BCHW


def classifier(model: nn.Module, data: DataRecord, encoder: Encoder | None, reads: Reads) -> nn.Module:
    """The module that is exported, in evaluation mode, on the CPU; `encoder` is None where the model reads pixels."""
    if reads == "latents":
        return Probabilities(model).eval()
    return nn.Sequential(images_to_inputs(data, encoder, reads), Probabilities(model)).eval()


def images_to_inputs(data: DataRecord, encoder: Encoder | None, reads: Reads) -> nn.Module:
    """The module's part before the model: the encoder and the cache's rounding, or nothing where it reads pixels."""
    if is_pixels(data.spec):
        return ImagesToInputs(nn.Identity(), reads).eval()
    assert encoder is not None
    spec = spec_of_record(data.spec)
    to_latents = nn.Sequential(cast(nn.Module, encoder.transform), Stored(spec.store, spec.step))
    return ImagesToInputs(to_latents, reads).eval()


def example_input(data: DataRecord, reads: Reads) -> Tensor:
    """Zeros of the kind and shape that the module takes."""
    if reads == "latents":
        return torch.zeros(_EXAMPLES, *latent_shape(data))
    size = data.spec["image_size"]
    return torch.zeros(_EXAMPLES, 3, size, size, dtype=torch.uint8 if reads == "uint8" else torch.float32)


def latent_shape(data: DataRecord) -> tuple[int, int, int]:
    """[C,H,W] of the cache's latents: a window is taken inside of the model."""
    return spec_of_record(data.spec).latent_shape
