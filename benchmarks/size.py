"""What a cache takes, beside what its integers could take: bytes a view, as stored and as entropies.

    python benchmarks/size.py caches/folder [caches/folder-rans ...] [--weights bundled] [--split train] [--json FILE]

Stored: the shard files with all that is in them, and the markers and manifest besides. Ideal: the entropy of the
integers under the encoder's own factorized prior, which is what its codec would transmit. Empirical: the entropy
channel by channel under the frequencies of the split itself, what a static coder needs beside its tables. All shards
are read in order, so a split of thousands of images takes minutes.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ci2p_cache.cache import Cache, open_cache
from ci2p_cache.codecs import ESCAPE, unzigzag
from ci2p_cache.errors import InputError
from ci2p_cache.publish import publish
from ci2p_cache.reader import ViewReader
from pipeline.encode.codec import hash_weights
from pipeline.encode.whole_codec import Codec, load_codec

LEAST_LIKELIHOOD = 1e-9  # CompressAI's own bound: what is less likely takes 30 bits


def count_values(cache: Cache) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(integers, how often each occurs) of every channel, over the views of a split."""
    reader = ViewReader(cache.split_dir, cache.manifest)
    channels, height, width = cache.spec.latent_shape
    counts = np.zeros((channels, 256), np.int64)
    base = 256 * np.arange(channels)[:, None]
    for _, stored_NVCHW in reader.read_shards():
        for view in stored_NVCHW.reshape(-1, channels, height * width):
            counts += np.bincount((base + view).ravel(), minlength=counts.size).reshape(counts.shape)
    counts[:, ESCAPE] = 0
    integers = unzigzag(np.arange(256, dtype=np.uint8)).astype(np.int64)
    found = [(integers[row > 0], row[row > 0]) for row in counts]
    if reader.escapes is not None:
        for channel in np.unique(reader.escapes.indices // (height * width)).tolist():
            those = reader.escapes.integers[reader.escapes.indices // (height * width) == channel]
            beyond, times = np.unique(those, return_counts=True)
            found[channel] = np.concatenate([found[channel][0], beyond]), np.concatenate([found[channel][1], times])
    return found


def prior_bits(codec: Codec, channel: int, integers: NDArray[np.int64], step: float) -> NDArray[np.float64]:
    """What each integer costs under the prior: the probability of the interval of latents that round to it.

    The codec itself rounds around a channel's median; a cache rounds around zero, and its integers are taken as such.
    """
    prior = codec.entropy_bottleneck.double()
    values = torch.zeros(prior.channels, 1, len(integers), dtype=torch.float64)
    values[channel, 0] = torch.from_numpy(integers) * step
    with torch.inference_mode():
        lower, upper = (prior._logits_cumulative(values + side * step / 2, False)[channel, 0] for side in (-1, 1))
    bits: NDArray[np.float64] = -(upper.sigmoid() - lower.sigmoid()).clamp(min=LEAST_LIKELIHOOD).log2().numpy()
    return bits


def measure(path: str, split: str, codec: Codec, weights: str) -> dict[str, float]:
    """Bytes a view of one split."""
    cache = open_cache(path, split)
    spec, manifest = cache.spec, cache.manifest
    if spec.step is None:
        raise InputError(f"{path} is stored as {spec.store}: only integers have an entropy; give an int or rans cache")
    if hash_weights(codec.g_a.state_dict()) != spec.weights_sha256:
        raise InputError(f"--weights {weights} is not the encoder of {path}; give that one")
    ideal = empirical = 0.0
    for channel, (integers, counts) in enumerate(count_values(cache)):
        ideal += float(prior_bits(codec, channel, integers, spec.step) @ counts)
        empirical -= float(np.log2(counts / counts.sum()) @ counts)
    files = [Path(cache.split_dir) / "manifest.json", *(Path(cache.split_dir) / "shards").glob("*.json")]
    return {
        "num_views": manifest.num_views,
        "num_shards": len(manifest.shards),
        "stored": manifest.bytes_total / manifest.num_views,
        "markers": sum(file.stat().st_size for file in files) / manifest.num_views,
        "ideal": ideal / 8 / manifest.num_views,
        "empirical": empirical / 8 / manifest.num_views,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("caches", nargs="+", metavar="CACHE")
    parser.add_argument("--weights", default="bundled", help="the encoder's codec: bundled, zoo or a file")
    parser.add_argument("--split", default="train")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    codec = load_codec(arguments.weights)
    figures = {Path(path).name: measure(path, arguments.split, codec, arguments.weights) for path in arguments.caches}
    columns = ("stored", "markers", "ideal", "empirical")
    print(f"{'bytes a view':<36}{'views':>8}" + "".join(f"{name:>11}" for name in (*columns, "stored is")))
    for name, found in figures.items():
        values = "".join(f"{found[column]:>11.0f}" for column in columns)
        print(f"{name:<36}{found['num_views']:>8}{values}{found['stored'] / found['ideal']:>10.3f}x ideal")
    if arguments.json:
        publish(arguments.json, (json.dumps(figures, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
