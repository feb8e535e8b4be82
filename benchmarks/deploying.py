"""What `ci2p export` wrote, on one core: images a second beside torch's own, in turns within the same rounds.

    ci2p export runs/RUN --to onnx --int8
    python benchmarks/deploying.py runs/RUN [--rounds 15] [--batch-size 8] [--json FILE]

torch is the run's model in evaluation mode, with its encoder where images are read, under inference_mode. Everything
computes on one thread, and that thread's processor time counts: on a busy machine, too, the ratios of a round hold.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from pipeline.evaluate.images import LatentRendering, open_rendering
from pipeline.export.graph import classifier, latent_shape
from pipeline.train.trained_model import load_model

Run = Callable[[], Any]


def from_onnx(path: Path, inputs: np.ndarray) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: inputs})


def from_torch(module: torch.nn.Module, inputs: np.ndarray) -> Run:
    tensor = torch.from_numpy(inputs)

    def run() -> Any:
        with torch.inference_mode():
            return module(tensor)

    return run


def rates(runs: dict[str, Run], batch_size: int, rounds: int) -> dict[str, list[float]]:
    """Images a second of processor time in each round, after one to warm up; each goes first as often as another."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        names = list(runs)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            begin = time.thread_time()
            runs[name]()
            if number:
                found[name].append(batch_size / (time.thread_time() - begin))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, config = load_model(arguments.run)
    rendering = open_rendering(config.data.spec, "bundled", "cpu")
    assert isinstance(rendering, LatentRendering), "a run that reads latents"
    draw = np.random.default_rng(0)
    size = config.data.spec["image_size"]
    images = draw.integers(0, 256, (arguments.batch_size, 3, size, size)).astype(np.uint8)
    latents = draw.normal(0, 3, (arguments.batch_size, *latent_shape(config.data))).round().astype(np.float32)
    measured = {}
    for what, stem, inputs in (("images", "model", images), ("latents", "model-latents", latents)):
        module = classifier(model, config.data, rendering.encoder, "uint8" if what == "images" else "latents")
        runs = {"torch": from_torch(module, inputs)}
        for name, end in (("onnxruntime", ""), ("onnxruntime, int8", "-int8")):
            file = arguments.run / f"{stem}{end}.onnx"
            if file.exists():
                runs[name] = from_onnx(file, inputs)
        found = rates(runs, arguments.batch_size, arguments.rounds)
        for name, each in found.items():
            ratios = [one / torchs for one, torchs in zip(each, found["torch"], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            rate = statistics.median(each)
            measured[f"{what}, {name}"] = {"images_per_s": rate, "ratio": middle, "quartiles": [low, high]}
            print(f"{what:8} {name:18} {rate:8.1f} images/s, {middle:.2f} of torch's ({low:.2f} to {high:.2f})")
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
