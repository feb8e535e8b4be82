"""Training throughput: CI2P-ViT from a cache beside ViT/16 and ViT/32 from pixels, in one run: images/s.

    python benchmarks/training.py --shards caches/images --data-dir images [--width base] [--precision bfloat16]

Whole training steps, from data in memory to updated weights, the models taking turns, so that what else the machine
does falls on all of them. Prints medians and ranges, of the ratio to ViT/16 round by round; the ratio that the
multiply-accumulates alone would give; and what share of the machine's measured matrix-multiply rate each reaches. With
--profile, the operators that a step spends its time on.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from commands import command_line, cores, machine
from torch.profiler import ProfilerActivity, profile

from ci2p_cache.publish import publish
from pipeline.baselines.pixels import open_pixel_data
from pipeline.models import create_model
from pipeline.models.complexity import measure
from pipeline.running.bfloat16 import lacks_bfloat16
from pipeline.train.data import Batch, Batches, Share, TrainingData, open_training_data
from pipeline.train.launch import deterministic_on_cpu, launch, step_seed
from pipeline.train.learner import Learner
from pipeline.train.recipe import load_recipe

MODELS = {
    "base": ("ci2p_vit_base", "ci2p_vit_ds", "vit_base", "vit_base_p32"),
    "small": ("ci2p_vit_small", "vit_small"),
    "tiny": ("ci2p_vit_tiny", "vit_tiny", "vit_tiny_p32"),
}
TRAINING_MACS = 3  # of a forward pass: it, the gradient of the inputs, the gradient of the weights


def endless(batches: Batches) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from batches.epoch(epoch)
        epoch += 1


def stepper(name: str, data: TrainingData, arguments: argparse.Namespace) -> Callable[[], None]:
    """A function that takes one training step, whole."""
    recipe = load_recipe(
        "quick",
        {
            "model": name,
            "batch_size": arguments.batch_size,
            "precision": arguments.precision,
            "compile": arguments.compile,
        },
    )
    fabric = launch(arguments.device, recipe.precision)
    share = Share(0, 1, fabric.device)
    train_batches = data.train_batches(share, batch_size=recipe.batch_size, seed=0, flip=True)
    batches = endless(train_batches)
    model = create_model(name, num_classes=len(data.classes), input_shape=data.input_shape)
    learner = Learner(
        fabric, model, recipe, steps_per_epoch=train_batches.steps_per_epoch, num_classes=len(data.classes)
    )
    step = 0

    def one() -> None:
        nonlocal step
        learner.learn(next(batches), step, step_seed(0, 0, step))
        step += 1

    return one


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    begin = time.perf_counter()
    function()
    wait_for(device)
    return time.perf_counter() - begin


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device: torch.device, precision: str, rounds: int) -> float:
    """MACs a second of a square matrix product."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    side = 2048 if device.type == "cpu" else 8192
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    times = [seconds_of(lambda: torch.mm(matrix, matrix), device) for _ in range(rounds + 2)]
    return float(side**3 / statistics.median(times[2:]))


def heaviest(step: Callable[[], None]) -> list[str]:
    """What a step spends its time on, the ten heaviest operators."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
    with profile(activities=activities) as profiler:
        step()
    return profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=10).splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", required=True, help="a cache of --data-dir")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--width", choices=MODELS, default="base")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", help="bfloat16 where the device has it, if not given")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="print the operators that a step spends its time on")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cache = open_training_data(arguments.shards)
    pixels = open_pixel_data(
        "folder", arguments.data_dir, image_size=cache.train.spec.image_size, workers=min(4, cores())
    )
    device = launch(arguments.device, "float32").device
    arguments.precision = arguments.precision or ("float32" if lacks_bfloat16(device) else "bfloat16")
    names = MODELS[arguments.width]
    steps = {name: stepper(name, cache if name.startswith("ci2p") else pixels, arguments) for name in names}
    rates: dict[str, list[float]] = {name: [] for name in names}
    with deterministic_on_cpu(device):
        for number in range(arguments.rounds + 1):
            for name, step in steps.items():
                seconds = seconds_of(step, device)
                if number:  # the first is to warm up
                    rates[name].append(arguments.batch_size / seconds)
    peak = matrix_rate(device, arguments.precision, arguments.rounds)
    gmacs = {found.model: found.gmacs_trained for found in measure(names, [cache.train.spec.image_size])}
    report(arguments, rates, gmacs, peak)
    if arguments.profile:
        for name, step in steps.items():
            print(f"\n{name}", *heaviest(step), sep="\n")


def report(arguments: argparse.Namespace, rates: dict[str, list[float]], gmacs: dict[str, float], peak: float) -> None:
    reference = next(name for name in rates if name.startswith("vit_"))
    print(f"{machine()}; {arguments.precision}, batches of {arguments.batch_size}, {arguments.rounds} rounds")
    print(f"matrix product: {peak / 1e9:.0f} GMAC/s")
    figures: dict[str, Any] = {}
    for name, values in rates.items():
        median = statistics.median(values)
        ratios = [ours / theirs for ours, theirs in zip(values, rates[reference], strict=True)]
        ratio = statistics.median(ratios)
        share = median * TRAINING_MACS * gmacs[name] * 1e9 / peak
        figures[name] = {
            "images_per_s": values,
            "median": median,
            "ratio": ratio,
            "ratios": ratios,
            "ratio_by_macs": gmacs[reference] / gmacs[name],
            "share_of_matrix_product": share,
        }
        print(
            f"{name:<15}{median:>8.2f} images/s ({min(values):.2f}-{max(values):.2f}), {ratio:.2f}x "
            f"{reference} ({min(ratios):.2f}-{max(ratios):.2f}), by MACs {gmacs[reference] / gmacs[name]:.2f}x, "
            f"{100 * share:.0f} % of that product"
        )
    if arguments.json:
        result = {"command": command_line(), "machine": machine(), "matrix_macs_per_s": peak, "models": figures}
        publish(arguments.json, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
