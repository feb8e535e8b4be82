"""The codec whose encoder ci2p freezes: CompressAI's `bmshj2018_factorized`, its weights, and where they come from.

The only import of compressai.

    pixels --g_a--> latents --rounded, coded under a factorized prior--> bits --> latents --g_s--> pixels

`Codec` holds all three: `g_a` from pixels [B, 3, S, S] in [0, 1] to latents [B, 192, S / 16, S / 16], the prior as
`entropy_bottleneck`, and `g_s` back.
"""

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

import compressai.zoo
import safetensors.torch
import torch
from compressai.losses import RateDistortionLoss
from compressai.models import FactorizedPrior as Codec
from compressai.ops import compute_padding
from safetensors import SafetensorError
from torch import Tensor

from ci2p_cache.errors import InputError
from ci2p_cache.spec import LATENT_CHANNELS

__all__ = [
    "BUNDLED_WEIGHTS", "ENCODER", "Codec", "RateDistortionLoss", "compute_padding", "hash_weights", "load_analysis",
    "load_codec", "new_codec",
]  # fmt: skip

ENCODER = "bmshj2018_factorized"
ZOO_QUALITY = 5
HIDDEN_CHANNELS = 128
BUNDLED_WEIGHTS = Path(__file__).parent / "weights" / "factorized-prior.safetensors"

# What torch.load and safetensors let out for bytes that are no checkpoint.
_UNREADABLE = (
    SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError,
)  # fmt: skip
_FIRST, _LAST = "g_a.0.weight", "g_a.6.weight"


def new_codec() -> Codec:
    """A codec with random weights (N=128, M=192), drawn from torch's generator."""
    return Codec(HIDDEN_CHANNELS, LATENT_CHANNELS)


def load_codec(weights: str, *, option: str = "--weights") -> Codec:
    """The whole codec of "bundled", "zoo" or a checkpoint file, for evaluation, on the CPU.

    Raises InputError for a file that is missing, damaged, of another architecture, or an encoder without its decoder.
    """
    state = _read_weights(weights, option)
    _analysis_state(state, weights, option)
    if "g_s.0.weight" not in state or "entropy_bottleneck.quantiles" not in state:
        raise InputError(
            f"{option} {weights} holds an encoder alone; this needs the whole codec: decoder and prior too"
        )
    codec = new_codec()
    _load(codec, state, weights, option)
    codec.update(force=True)
    return codec.eval()


def load_analysis(weights: str) -> tuple[torch.nn.Module, str]:
    """The analysis transform of `--weights`, for evaluation, on the CPU, and the hash of its weights."""
    state = _analysis_state(_read_weights(weights, "--weights"), weights, "--weights")
    transform: torch.nn.Module = new_codec().g_a
    _load(transform, state, weights, "--weights")
    return transform.eval(), hash_weights(state)


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values of the analysis transform: the same whatever file they came in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def _read_weights(weights: str, option: str) -> dict[str, Tensor]:
    """The tensors of "bundled", "zoo" (CompressAI's own file) or a checkpoint file, by CompressAI's names.

    Raises InputError, naming `option`, for a file that is missing or damaged and for a download that fails.
    """
    if weights == "zoo":
        return dict(_read_zoo(option))
    path = BUNDLED_WEIGHTS if weights == "bundled" else Path(weights)
    if not path.is_file():
        raise InputError(f"{option} {weights}: no such file; give bundled, zoo, or a checkpoint file")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise InputError(
            f"{option} {weights} cannot be read as a checkpoint ({' '.join(str(error).split())[:120]}); "
            "give a .pth.tar in CompressAI's format, or safetensors"
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict):
        raise InputError(f"{option} {weights} holds no state_dict; give a checkpoint in CompressAI's format")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _analysis_state(state: Mapping[str, Tensor], weights: str, option: str) -> dict[str, Tensor]:
    """The analysis transform's part of a checkpoint, once its widths are known to be the model's; else InputError."""
    if _FIRST not in state or _LAST not in state:
        raise InputError(
            f"{option} {weights} is no factorized-prior checkpoint: it lacks {_FIRST}; "
            "give one in CompressAI's format (bmshj2018_factorized, qualities 1 to 5)"
        )
    hidden, channels = len(state[_FIRST]), len(state[_LAST])
    if (hidden, channels) != (HIDDEN_CHANNELS, LATENT_CHANNELS):
        of = " (qualities 6 to 8)" if (hidden, channels) == (192, 320) else ""
        raise InputError(
            f"{option} {weights} has N={hidden}, M={channels}{of}, and ci2p needs N={HIDDEN_CHANNELS}, "
            f"M={LATENT_CHANNELS}; use a checkpoint of quality 1 to 5"
        )
    return {name.removeprefix("g_a."): tensor for name, tensor in state.items() if name.startswith("g_a.")}


def _read_zoo(option: str) -> Mapping[str, Tensor]:
    try:
        model = compressai.zoo.bmshj2018_factorized(quality=ZOO_QUALITY, metric="mse", pretrained=True, progress=False)
    except (URLError, OSError) as error:
        url = compressai.zoo.image.model_urls["bmshj2018-factorized"]["mse"][ZOO_QUALITY]
        raise InputError(
            f"{option} zoo: CompressAI's weights are not on this machine and the download failed ({error}); "
            f"fetch {url} where there is a network and give the file as {option} FILE, or use {option} bundled"
        ) from error
    state: Mapping[str, Tensor] = model.state_dict()
    return state


def _load(module: torch.nn.Module, state: Mapping[str, Tensor], weights: str, option: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"{option} {weights} does not fit {ENCODER}: {' '.join(str(error).split())[:200]}; "
            "give a factorized-prior checkpoint in CompressAI's format"
        ) from error
