"""From latents to a cache's buffers, as `ci2p encode` does it, beside what it did before: views/s of one core.

    python benchmarks/packing.py [--images DIR] [--count 32] [--rounds 7] [--json FILE]

before: the latents come to the host as float32, and numpy rounds, checks and zig-zags them; now: torch does, where
they are, and a byte a value comes. The buffers are compared: they are the same. Latents are those of the first images
of DIR, or drawn. The processor's time counts; the two take turns, and ratios are of a round.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from commands import command_line, machine
from encoding import some_pixels

from ci2p_cache import codecs
from ci2p_cache.publish import publish
from pipeline.encode.encoder import load_encoder
from pipeline.encode.rows import pack_row
from pipeline.encode.stored_batch import StoredBatch

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Given:
    """An encoder that has its latents already, float32 [F, B, 192, 16, 16]; and what of a spec packing reads."""

    latents: torch.Tensor
    store: codecs.Store
    views: tuple[str, ...] = ("plain", "mirror")
    step: float = 1.0
    split: str = "train"
    device: torch.device = _CPU

    def views_of(self, *_: object) -> torch.Tensor:
        return self.latents.transpose(0, 1)


def now(given: Given, compress: bool) -> list[list[Any]]:
    encoder: Any = type("Latents", (), {"device": given.device, "views": given.views_of})()
    batch = StoredBatch(encoder, torch.empty(1, given.latents.shape[1]), given)
    places = range(given.latents.shape[1])
    if compress:
        return [list(pack_row(batch, place, "key", given).buffers) for place in places]
    return [batch.image(place)[0] for place in places]


def before(given: Given, compress: bool) -> list[list[Any]]:
    rows = []
    for latents_VCHW in given.latents.transpose(0, 1).numpy():
        kept = as_numpy_did(latents_VCHW, given)
        rows.append([codecs.pack(view, given.store) if compress else view for view in kept])
    return rows


def as_numpy_did(latents_VCHW: np.ndarray, given: Given) -> np.ndarray:
    assert np.isfinite(latents_VCHW).all()
    if given.store == "float16":
        kept = latents_VCHW.astype(np.float16)
        assert np.isfinite(kept).all()
        values = kept.astype(np.float32)
    else:
        integers = np.rint(latents_VCHW / np.float32(given.step))
        assert float(np.abs(integers).max(initial=0)) <= codecs.ESCAPED_LIMIT
        whole = integers.astype(np.int32)
        values = whole.astype(np.float32) * np.float32(given.step)
        kept = codecs.zigzag(whole)
        np.nonzero(np.abs(whole.reshape(len(whole), -1)) > codecs.INT_LIMIT)
    values.min(), values.max()
    return kept


def seconds_of(work: Callable[[Given, bool], object], given: Given, compress: bool) -> float:
    begin = time.thread_time()
    work(given, compress)
    return time.thread_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--count", type=int, default=32, help="images")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    encoder = load_encoder("bundled", "cpu")
    pixels = some_pixels(arguments.images, arguments.count)
    parts = [encoder.views(part, ("plain", "mirror")).transpose(0, 1) for part in pixels.split(8)]
    latents_FBCHW = torch.cat(parts, dim=1)
    num_views = latents_FBCHW.shape[0] * latents_FBCHW.shape[1]
    print(f"{machine()}; {num_views} views, one core, {arguments.rounds} rounds")
    result: dict[str, Any] = {"command": command_line(), "machine": machine(), "views_per_s": {}}
    for store, compress in (("int", True), ("int", False), ("float16", True)):
        given = Given(latents_FBCHW, store)
        for ours, theirs in zip(now(given, compress), before(given, compress), strict=True):
            assert all(np.array_equal(here, there) for here, there in zip(ours, theirs, strict=True))
        rounds = []
        for _ in range(arguments.rounds):
            seconds = [seconds_of(way, given, compress) for way in (before, now, now, before)]
            rounds.append((seconds[0] + seconds[3], seconds[1] + seconds[2]))
        rates = [[2 * num_views / each for each in column] for column in zip(*rounds, strict=True)]
        ratios = [there / here for there, here in rounds]
        name = f"{store}, " + ("compressed" if compress else "before it is compressed")
        shown = [f"{statistics.median(each):,.0f} ({min(each):,.0f}-{max(each):,.0f})" for each in rates]
        spread = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"
        print(f"{name:<28} before {shown[0]}, now {shown[1]} views/s: {spread}", flush=True)
        result["views_per_s"][name] = dict(zip(("before", "now"), rates, strict=True))
    if arguments.json:
        publish(arguments.json, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
