"""The whole codec, CompressAI's: encoder, prior and decoder, to be trained and measured. The only import of compressai.

`Codec` holds `g_a` from pixels [B, 3, S, S] in [0, 1] to latents [B, 192, S / 16, S / 16], the prior as
`entropy_bottleneck`, and `g_s` back. compressai is an extra: importing this file raises InputError where it is not
installed.
"""

import errno
import hashlib
import re
from pathlib import Path

import torch
from torch import Tensor

from ci2p_cache.errors import InputError
from ci2p_cache.extras import not_installed
from ci2p_cache.publish import publish
from ci2p_cache.remote_files import describe, read_file
from ci2p_cache.spec import LATENT_CHANNELS
from pipeline.encode.codec import analysis_state, does_not_fit, read_weights
from pipeline.transforms import HIDDEN_CHANNELS

try:
    import compressai.zoo
    from compressai.losses import RateDistortionLoss
    from compressai.models import FactorizedPrior as Codec
    from compressai.ops import compute_padding
except ImportError as error:
    raise not_installed(
        "compressai", "the whole codec (fit-encoder, --weights zoo)", error, instead="use --weights bundled"
    ) from error

__all__ = ["Codec", "RateDistortionLoss", "compute_padding", "load_codec", "new_codec", "read_zoo"]

_ZOO_QUALITY = 5


def new_codec() -> Codec:
    """A codec with random weights (N=128, M=192), drawn from torch's generator."""
    return Codec(HIDDEN_CHANNELS, LATENT_CHANNELS)


def load_codec(weights: str, *, option: str = "--weights") -> Codec:
    """The whole codec of "bundled", "zoo" or a checkpoint file, for evaluation, on the CPU.

    Raises InputError for a file that is missing, damaged, of another architecture, or an encoder without its decoder.
    """
    state = read_weights(weights, option)
    analysis_state(state, weights, option)
    if "g_s.0.weight" not in state or "entropy_bottleneck.quantiles" not in state:
        raise InputError(
            f"{option} {weights} holds an encoder alone; this needs the whole codec: decoder and prior too"
        )
    codec = new_codec()
    try:
        codec.load_state_dict(state)
    except RuntimeError as error:
        raise does_not_fit(weights, option, str(error)) from error
    codec.update(force=True)
    return codec.eval()


def read_zoo(option: str) -> dict[str, Tensor]:
    """The tensors of CompressAI's own file, quality 5. Raises InputError when it cannot be had."""
    url = compressai.zoo.image.model_urls["bmshj2018-factorized"]["mse"][_ZOO_QUALITY]
    try:
        _download(url)
        model = compressai.zoo.bmshj2018_factorized(quality=_ZOO_QUALITY, metric="mse", pretrained=True, progress=False)
    except OSError as error:
        raise InputError(
            f"{option} zoo: CompressAI's weights are not on this machine and the download failed ({describe(error)}); "
            f"fetch {url} where there is a network and give the file as {option} FILE, or use {option} bundled"
        ) from error
    return dict(model.state_dict())


def _download(url: str) -> None:
    """Puts a file where torch.hub looks for it, whose own download knows no time-out and takes half a file for one.

    Raises OSError.
    """
    name = url.rpartition("/")[2]
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    if file.exists():
        return
    data = read_file(url)
    begins = re.search(r"-([0-9a-f]{8,})\.", name)
    if begins is not None and not hashlib.sha256(data).hexdigest().startswith(begins[1]):
        raise OSError(errno.EIO, f"the {len(data)} bytes that came are not that file", url)
    publish(file, data)
