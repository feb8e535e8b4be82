"""best.safetensors: a model's weights, sealed, with all that is needed to use them without the run they are from.

The file is safetensors', which anything reads that knows the format. Its metadata is one text (of several, the library
would write in an order of its own each time), `ci2p`, in JSON:

    config      config.json's content, as it was when the weights were written
    sha256      over that and over every tensor: name, type, shape and bytes, in the order of the names
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ci2p_cache.errors import WorkError
from ci2p_cache.publish import publish

_METADATA = "ci2p"


def write_weights(path: Path, weights: Mapping[str, Tensor], config: str) -> str:
    """Publishes weights with the JSON of their config; returns their seal. Raises OSError when the disk refuses."""
    plain = _row_major(weights)
    seal = _seal(plain, config)
    publish(path, safetensors.torch.save(plain, {_METADATA: json.dumps({"config": config, "sha256": seal})}))
    return seal


def write_plain_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Publishes weights without a config and a seal, for whoever changed them. Raises OSError when the disk refuses."""
    publish(path, safetensors.torch.save(_row_major(weights)))


def read_weights(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """Weights, on the CPU, and the JSON of their config; None where an older ci2p wrote them, without a seal.

    Raises WorkError, naming the file, when a byte of it has changed or it cannot be read.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except SafetensorError as error:
        raise WorkError(f"{path} is damaged ({' '.join(str(error).split())[:120]})") from error
    except OSError as error:
        raise WorkError(f"{path} cannot be read ({error.strerror or error}); mend that and try again") from error
    if not metadata:
        return weights, None
    try:
        sealed = json.loads(metadata[_METADATA])
        config = str(sealed["config"])
        whole = sealed["sha256"] == _seal(weights, config)
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise WorkError(f"{path} is damaged (its bytes are not those that were written)")
    return weights, config


def read_seal(path: Path) -> str:
    """The seal that a weights file bears, empty where it has none or cannot be read; `read_weights` holds it to it."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return str(json.loads((file.metadata() or {})[_METADATA])["sha256"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return ""


def _row_major(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors writes them; the convolutions' weights lie channels-last."""
    return {name: value.detach().cpu().contiguous() for name, value in weights.items()}


def _seal(weights: Mapping[str, Tensor], config: str) -> str:
    hasher = hashlib.sha256(config.encode())
    for name in sorted(weights):
        value = weights[name]
        hasher.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        hasher.update(value.detach().flatten().contiguous().view(torch.uint8).numpy().data)
    return hasher.hexdigest()
