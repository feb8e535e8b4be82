"""The weights of the codec whose encoder ci2p freezes, `bmshj2018_factorized`, and where they come from.

    pixels --analysis--> latents --rounded, coded under a factorized prior--> bits --> latents --synthesis--> pixels

The transforms are `pipeline.transforms`', and whatever is made of pixels or latents needs no other package. The whole
codec, prior included, is CompressAI's, in `whole_codec`.
"""

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ci2p_cache.errors import InputError
from ci2p_cache.spec import LATENT_CHANNELS
from pipeline.transforms import GDN, HIDDEN_CHANNELS, AnalysisTransform, SynthesisTransform
from pipeline.transforms.gdn import PEDESTAL, SMALLEST_BETA, bound

ENCODER = "bmshj2018_factorized"
BUNDLED_WEIGHTS = Path(__file__).parent / "weights" / "factorized-prior.safetensors"

# What torch.load and safetensors let out for bytes that are no checkpoint.
_UNREADABLE = (
    SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError,
)  # fmt: skip
_FIRST, _LAST = "g_a.0.weight", "g_a.6.weight"


# What CompressAI's GDN stores beside its parameters: constants of the formula, a file without which it does not load.
_CONSTANTS = {
    "beta_reparam.pedestal": PEDESTAL,
    "beta_reparam.lower_bound.bound": bound(SMALLEST_BETA),
    "gamma_reparam.pedestal": PEDESTAL,
    "gamma_reparam.lower_bound.bound": bound(0.0),
}


def load_analysis(weights: str, *, option: str = "--weights") -> tuple[AnalysisTransform, str]:
    """The encoder of "bundled", "zoo" or a checkpoint file, for evaluation, on the CPU, and the hash of its weights.

    Raises InputError for a file that is missing, damaged or of another architecture, and for a download that fails.
    """
    state = analysis_state(read_weights(weights, option), weights, option)
    transform = AnalysisTransform()
    _load(transform, state, weights, option)
    return transform.eval(), hash_weights(state)


def load_synthesis(weights: str, *, option: str = "--weights") -> tuple[SynthesisTransform, str]:
    """The decoder that belongs to an encoder, for evaluation, on the CPU, and the hash of the encoder's weights.

    Raises InputError as `load_analysis` does, and for an encoder without its decoder.
    """
    state = read_weights(weights, option)
    analysis = analysis_state(state, weights, option)
    synthesis = _part(state, "g_s")
    if "0.weight" not in synthesis:
        raise InputError(f"{option} {weights} holds an encoder alone; this needs its decoder too")
    transform = SynthesisTransform()
    _load(transform, synthesis, weights, option)
    return transform.eval(), hash_weights(analysis)


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values of the analysis transform: the same whatever file they came in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def read_weights(weights: str, option: str) -> dict[str, Tensor]:
    """The tensors of "bundled", "zoo" (CompressAI's own file) or a checkpoint file, by CompressAI's names.

    Raises InputError, naming `option`, for a file that is missing or damaged and for a download that fails.
    """
    if weights == "zoo":
        from pipeline.encode.whole_codec import read_zoo  # an extra

        return read_zoo(option)
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


def analysis_state(state: Mapping[str, Tensor], weights: str, option: str) -> dict[str, Tensor]:
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
    return _part(state, "g_a")


def _part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """One module of the codec, by the names within it."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in state.items() if key.startswith(f"{name}.")}


def _load(transform: nn.Sequential, state: Mapping[str, Tensor], weights: str, option: str) -> None:
    """Loads CompressAI's tensors into our layers. Raises InputError unless they are what they would be in its own."""
    constants = {
        f"{number}.{name}": torch.tensor([value])
        for number, layer in transform.named_children()
        if isinstance(layer, GDN)
        for name, value in _CONSTANTS.items()
    }
    wrong = [name for name, value in constants.items() if name not in state or not state[name].equal(value)]
    if wrong:
        raise does_not_fit(weights, option, f"{wrong[0]} is missing or not what it is in CompressAI's layers")
    try:
        transform.load_state_dict({name: tensor for name, tensor in state.items() if name not in constants})
    except RuntimeError as error:
        raise does_not_fit(weights, option, str(error)) from error


def does_not_fit(weights: str, option: str, why: str) -> InputError:
    return InputError(
        f"{option} {weights} does not fit {ENCODER}: {' '.join(why.split())[:200]}; "
        "give a factorized-prior checkpoint in CompressAI's format"
    )
