"""Codecs for rounded latents on a real cache: bytes a view, views decoded a second and stored a second, on one core.

    python benchmarks/codec_choice.py CACHE [--views 512] [--rounds 5] [--json FILE]

All get the same views as integers. "n a chunk" puts n views into one buffer, channel after channel of all of them;
reading one of these at random decodes n. The first row is what a cache does. Prints medians over --rounds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from commands import command_line, machine
from numcodecs import LZ4, Blosc, Zstd
from numpy.typing import NDArray

from ci2p_cache.cache import open_cache
from ci2p_cache.codecs import unzigzag
from ci2p_cache.errors import InputError
from ci2p_cache.publish import publish
from ci2p_cache.rans import ShardCoder
from ci2p_cache.reader import ViewReader

Views = NDArray[np.uint8]  # [N, C, H, W]


@dataclass(frozen=True)
class Way:
    """A codec on chunks [n, C, H, W] of views, and what it does with their order."""

    name: str
    encode: Callable[[Views], bytes]
    decode: Callable[[bytes, Views], object]
    views_a_chunk: int = 1
    is_signed: bool = False


def blosc(name: str, level: int, shuffle: int = Blosc.BITSHUFFLE) -> Blosc:
    return Blosc(cname=name, clevel=level, shuffle=shuffle)


def channel_major(codec: Blosc, views_a_chunk: int) -> Way:
    """One buffer of several views, each channel's cells side by side."""

    def decode(buffer: bytes, out: Views) -> None:
        chunk = np.frombuffer(codec.decode(buffer), np.uint8)
        out[:] = chunk.reshape(out.shape[1], out.shape[0], *out.shape[2:]).swapaxes(0, 1)

    return Way(
        f"zig-zag, Blosc zstd 5, bit-shuffle, {views_a_chunk} a chunk",
        lambda chunk: codec.encode(np.ascontiguousarray(chunk.swapaxes(0, 1))),
        decode,
        views_a_chunk,
    )


def ways(views: Views) -> list[Way]:
    def plain(name: str, codec: Blosc | Zstd | LZ4, *, is_signed: bool = False) -> Way:
        return Way(name, codec.encode, lambda buffer, out: codec.decode(buffer, out), is_signed=is_signed)

    values = views.swapaxes(0, 1).reshape(views.shape[1], -1)
    coder = ShardCoder(np.stack([np.bincount(channel, minlength=256) for channel in values]))
    return [
        plain("zig-zag, Blosc zstd 5, bit-shuffle", blosc("zstd", 5)),
        plain("zig-zag, Blosc zstd 1, bit-shuffle", blosc("zstd", 1)),
        plain("zig-zag, Blosc zstd 8, bit-shuffle", blosc("zstd", 8)),
        plain("zig-zag, Blosc lz4, bit-shuffle", blosc("lz4", 5)),
        plain("zig-zag, Blosc lz4hc, bit-shuffle", blosc("lz4hc", 5)),
        channel_major(blosc("zstd", 5), 16),
        channel_major(blosc("zstd", 5), 64),
        plain("signed, Blosc zstd 5, bit-shuffle", blosc("zstd", 5), is_signed=True),
        plain("zig-zag, Blosc zstd 5, no shuffle", blosc("zstd", 5, Blosc.NOSHUFFLE)),
        plain("zig-zag, zstd 3", Zstd(3)),
        plain("zig-zag, lz4", LZ4()),
        Way(
            "rANS under these views' frequencies",
            lambda chunk: coder.pack(chunk[0]),
            lambda buffer, out: coder.unpack(memoryview(buffer), out[0]),
        ),
    ]


def measure(way: Way, views: Views, rounds: int) -> dict[str, float]:
    given = unzigzag(views).view(np.uint8) if way.is_signed else views
    chunks = [given[at : at + way.views_a_chunk] for at in range(0, len(given), way.views_a_chunk)]
    out = np.empty_like(chunks[0])
    stored, decoded = [], []
    for _ in range(rounds):
        begin = time.perf_counter()
        buffers = [bytes(way.encode(np.ascontiguousarray(chunk))) for chunk in chunks]
        middle = time.perf_counter()
        for buffer in buffers:
            way.decode(buffer, out)
        decoded.append(len(given) / (time.perf_counter() - middle))
        stored.append(len(given) / (middle - begin))
    if not np.array_equal(out, chunks[-1]):
        raise AssertionError(f"{way.name} does not give back what it got")
    return {
        "bytes_per_view": sum(map(len, buffers)) / len(given),
        "decoded_per_s": statistics.median(decoded),
        "stored_per_s": statistics.median(stored),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache")
    parser.add_argument("--views", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cache = open_cache(arguments.cache, "train")
    if cache.spec.store == "float16":
        raise InputError(f"{arguments.cache} is stored as float16: give an int or rans cache")
    num_views = len(cache.spec.views)
    rows = np.arange(min(arguments.views // 64 * 64, cache.num_samples * num_views // 64 * 64))
    reader = ViewReader(cache.split_dir, cache.manifest)
    views: Views = reader.read(cache.positions[rows // num_views], rows % num_views)

    print(f"{machine()}; {len(views)} real views of {'x'.join(map(str, views.shape[1:]))}, one core")
    print(f"{'':<52}{'bytes a view':>13}{'decoded/s':>11}{'stored/s':>10}")
    found = {}
    for way in ways(views):
        found[way.name] = figures = measure(way, views, arguments.rounds)
        print(
            f"{way.name:<52}{figures['bytes_per_view']:>13,.0f}{figures['decoded_per_s']:>11,.0f}"
            f"{figures['stored_per_s']:>10,.0f}",
            flush=True,
        )
    if arguments.json:
        result = {"command": command_line(), "machine": machine(), "codecs": found}
        publish(arguments.json, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
