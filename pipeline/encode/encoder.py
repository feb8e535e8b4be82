"""The frozen encoder: pixels -> latents, by the analysis transform of a codec.

Legend: B images, S image size, H = W = S / 16.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ci2p_cache.errors import InputError
from pipeline.encode.codec import load_analysis
from pipeline.encode.openvino_engine import openvino_transform
from pipeline.running.bfloat16 import warn_of_slow_bfloat16
from pipeline.running.devices import resolve_device
from pipeline.running.tf32 import float32_products
from pipeline.transforms import freeze

Precision = Literal["float32", "bfloat16"]
Engine = Literal["torch", "openvino"]
DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Encoder:
    """A frozen analysis transform on a device."""

    transform: Callable[[Tensor], Tensor]
    weights_sha256: str
    device: torch.device
    precision: Precision
    engine: Engine = "torch"

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 RGB [B, 3, S, S] on any device -> latents float32 [B, 192, S / 16, S / 16] on the encoder's."""
        pixels = pixels.to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        # By a tensor, for by a number a GPU multiplies with its reciprocal, which is another float for some values.
        images = pixels / torch.full((), 255.0, device=self.device)
        if self.engine == "openvino":
            return self.transform(images)
        # Its precision is its own, also within a validation that autocasts the model.
        with float32_products(tf32=False), torch.autocast(self.device.type, enabled=False):
            latents: Tensor = self.transform(images.to(DTYPES[self.precision]))
        return latents.float().contiguous()

    def views(self, pixels: Tensor, names: tuple[str, ...]) -> Tensor:
        """uint8 RGB [B, 3, S, S] -> latents float32 [B, V, 192, H, W], "plain" as they are and "mirror" mirrored.

        Each is encoded from pixels: a mirrored latent is not the latent of the mirrored image, for stride-2
        convolutions do not commute with a mirror.
        """
        pixels = pixels.to(self.device, non_blocking=True)
        renderings = {"plain": lambda: pixels, "mirror": lambda: pixels.flip(-1)}
        latents = self(torch.cat([renderings[name]() for name in names]))
        return latents.view(len(names), -1, *latents.shape[1:]).transpose(0, 1)


def load_encoder(
    weights: str,
    device: str | torch.device = "auto",
    precision: Precision = "float32",
    *,
    engine: Engine = "torch",
    local_rank: int = 0,
) -> Encoder:
    """The encoder of `--weights`: "bundled", "zoo" (CompressAI's own file) or a checkpoint file.

    Raises InputError for a file that is missing, damaged or of another architecture, for a download that fails, for a
    device that is not there, and for OpenVINO where it is not installed or the device is no CPU.
    """
    target = resolve_device(device, local_rank)
    if engine == "openvino" and target.type != "cpu":
        raise InputError(f"--engine openvino is for the CPU, and --device is {target}; use --device cpu, or torch")
    transform, weights_sha256 = load_analysis(weights)
    if engine == "openvino":
        return Encoder(openvino_transform(transform, precision), weights_sha256, target, precision, engine)
    return frozen_encoder(transform, weights_sha256, target, precision)


def frozen_encoder(transform: nn.Module, weights_sha256: str, device: torch.device, precision: Precision) -> Encoder:
    """The encoder that a transform is, on a device; the transform itself stays as it is."""
    warn_of_slow_bfloat16(device, precision)
    frozen = freeze(transform, DTYPES[precision]).to(device)
    frozen = frozen.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Encoder(frozen, weights_sha256, device, precision)
