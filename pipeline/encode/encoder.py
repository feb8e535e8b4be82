"""The frozen encoder: pixels -> latents, by the analysis transform of CompressAI's `bmshj2018_factorized`.

The only import of compressai. Legend: B images, S image size, H = W = S / 16.
"""

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import compressai.models
import compressai.zoo
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ci2p_cache.errors import InputError
from ci2p_cache.spec import LATENT_CHANNELS

ENCODER = "bmshj2018_factorized"
ZOO_QUALITY = 5
HIDDEN_CHANNELS = 128
BUNDLED_WEIGHTS = Path(__file__).parent / "weights" / "factorized-prior.safetensors"

Precision = Literal["float32", "bfloat16"]
# What torch.load and safetensors let out for bytes that are no checkpoint.
_UNREADABLE = (
    SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError,
)  # fmt: skip
_FIRST, _LAST = "g_a.0.weight", "g_a.6.weight"


@dataclass(frozen=True)
class Encoder:
    """A frozen analysis transform on a device."""

    transform: torch.nn.Module
    weights_sha256: str
    device: torch.device
    precision: Precision

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 RGB [B, 3, S, S] on any device -> latents float32 [B, 192, S / 16, S / 16] on the encoder's."""
        images = pixels.to(self.device, non_blocking=True).float().div_(255)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            latents: Tensor = self.transform(images)
        return latents.float().contiguous()

    def views(self, pixels: Tensor, names: tuple[str, ...]) -> Tensor:
        """uint8 RGB [B, 3, S, S] -> latents float32 [B, V, 192, H, W], one per view name, each encoded from pixels.

        A mirrored latent is not the latent of the mirrored image: stride-2 convolutions do not commute with a mirror.
        """
        pixels = pixels.to(self.device, non_blocking=True)
        renderings = {"plain": lambda: pixels, "mirror": lambda: pixels.flip(-1)}
        latents = self(torch.cat([renderings[name]() for name in names]))
        return latents.view(len(names), -1, *latents.shape[1:]).transpose(0, 1)


def load_encoder(
    weights: str, device: str | torch.device = "auto", precision: Precision = "float32", *, local_rank: int = 0
) -> Encoder:
    """The encoder of `--weights`: "bundled", "zoo" (CompressAI's own file) or a checkpoint file.

    Raises InputError for a file that is missing, damaged or of another architecture, for a download that fails, and
    for a device that is not there.
    """
    target = resolve_device(device, local_rank)
    state = _analysis_state(_read_weights(weights), weights)
    transform = compressai.models.FactorizedPrior(HIDDEN_CHANNELS, LATENT_CHANNELS).g_a
    try:
        transform.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"--weights {weights} does not fit {ENCODER}: {' '.join(str(error).split())[:200]}; "
            "give a factorized-prior checkpoint in CompressAI's format"
        ) from error
    transform = transform.eval().requires_grad_(False).to(target, memory_format=torch.channels_last)
    return Encoder(transform, hash_weights(state), target, precision)


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values of the analysis transform: the same whatever file they came in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def resolve_device(device: str | torch.device, local_rank: int = 0) -> torch.device:
    """The device of `--device`; "auto" is CUDA where there is any, else the CPU.

    One process of several on a machine takes the GPU of its local rank. Raises InputError for a device that is not
    there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"--device {device} is not a device; give cpu, cuda or cuda:N") from error
    if target.type != "cuda":
        return target
    index = local_rank if target.index is None else target.index
    if index >= torch.cuda.device_count():
        raise InputError(f"--device {device}: this machine has {torch.cuda.device_count()} CUDA devices; use cpu")
    return torch.device("cuda", index)


def _read_weights(weights: str) -> Mapping[str, Tensor]:
    if weights == "zoo":
        return _read_zoo()
    path = BUNDLED_WEIGHTS if weights == "bundled" else Path(weights)
    if not path.is_file():
        raise InputError(f"--weights {weights}: no such file; give bundled, zoo, or a checkpoint file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise InputError(
            f"--weights {weights} cannot be read as a checkpoint ({' '.join(str(error).split())[:120]}); "
            "give a .pth.tar in CompressAI's format, or safetensors"
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict):
        raise InputError(f"--weights {weights} holds no state_dict; give a checkpoint in CompressAI's format")
    return state


def _read_zoo() -> Mapping[str, Tensor]:
    try:
        model = compressai.zoo.bmshj2018_factorized(quality=ZOO_QUALITY, metric="mse", pretrained=True, progress=False)
    except (URLError, OSError) as error:
        url = compressai.zoo.image.model_urls["bmshj2018-factorized"]["mse"][ZOO_QUALITY]
        raise InputError(
            f"--weights zoo: CompressAI's weights are not on this machine and the download failed ({error}); "
            f"fetch {url} where there is a network and give the file as --weights FILE, or use --weights bundled"
        ) from error
    state: Mapping[str, Tensor] = model.state_dict()
    return state


def _analysis_state(state: Mapping[str, Tensor], weights: str) -> dict[str, Tensor]:
    """The analysis transform's part of a checkpoint, once its widths are known to be the model's."""
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if _FIRST not in state or _LAST not in state:
        raise InputError(
            f"--weights {weights} is no factorized-prior checkpoint: it lacks {_FIRST}; "
            "give one in CompressAI's format (bmshj2018_factorized, qualities 1 to 5)"
        )
    hidden, channels = len(state[_FIRST]), len(state[_LAST])
    if (hidden, channels) != (HIDDEN_CHANNELS, LATENT_CHANNELS):
        of = " (qualities 6 to 8)" if (hidden, channels) == (192, 320) else ""
        raise InputError(
            f"--weights {weights} has N={hidden}, M={channels}{of}, and ci2p needs N={HIDDEN_CHANNELS}, "
            f"M={LATENT_CHANNELS}; use a checkpoint of quality 1 to 5"
        )
    return {name.removeprefix("g_a."): tensor for name, tensor in state.items() if name.startswith("g_a.")}
