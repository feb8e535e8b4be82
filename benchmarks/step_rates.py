"""Rates of whole training steps, and of what they are shares of, for benchmarks that measure them on any device."""

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from training import TRAINING_MACS, seconds_of, wait_for

from pipeline.models import create_model, reads_pixels
from pipeline.models.complexity import measure
from pipeline.running.tf32 import float32_products
from pipeline.train.data import Batch
from pipeline.train.launch import launch, step_seed
from pipeline.train.learner import Learner
from pipeline.train.optimizer import build_optimizer
from pipeline.train.recipe import Recipe
from pipeline.train.weight_average import WeightAverage

# isort: split
from timm.utils import ModelEmaV3

Row = dict[str, Any]
_LAPS = 3  # a ratio below their spread is noise


def held_batch(name: str, batch_size: int, options: argparse.Namespace) -> Iterator[Batch]:
    """The same samples for ever, on the device; latents as they are distributed in a cache."""
    side = options.image_size if reads_pixels(name) else options.image_size // 16
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(batch_size, 3 if reads_pixels(name) else 192, side, side, generator=generator)
    labels = torch.randint(10, (batch_size,), generator=generator)

    class Held:
        latents = (3 * inputs).round().to(options.device)

    Held.labels = labels.to(options.device)
    while True:
        yield Held()


def rates(
    name: str,
    batch_size: int,
    compiled: bool | str,
    batches: Iterator[Batch],
    options: argparse.Namespace,
    peak: float,
) -> Row:
    """Of whole steps, a lap of them without a wait between, as in a training."""
    device = torch.device(options.device)
    recipe = Recipe(model=name, batch_size=batch_size, precision=options.precision, compile=compiled)
    fabric = launch(options.device, options.precision)
    size = options.image_size
    shape = (3, size, size) if reads_pixels(name) else (192, size // 16, size // 16)
    torch.manual_seed(0)
    model = create_model(name, num_classes=10, input_shape=shape, drop_path=recipe.drop_path)
    learner = Learner(fabric, model, recipe, steps_per_epoch=1000, num_classes=10)
    step = 0

    def lap(count: int) -> tuple[float, float]:
        nonlocal step
        begin = time.perf_counter()
        for _ in range(count):
            learner.learn(next(batches), step, step_seed(0, 0, step))
            step += 1
        host = time.perf_counter() - begin
        wait_for(device)
        return (time.perf_counter() - begin) / count, host / count

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with float32_products(tf32=options.precision == "tf32"):
        first, _ = lap(1)
        lap(options.steps // 4 + 1)
        laps = [lap(options.steps) for _ in range(_LAPS)]
    seconds = [each for each, _ in laps]
    median = statistics.median(seconds)
    gmacs = measure([name], [size])[0].gmacs_trained
    row = {
        "images_s": batch_size / median,
        "spread": max(seconds) / min(seconds) - 1,
        "share_of_product": batch_size * TRAINING_MACS * gmacs * 1e9 / median / peak,
        "ms": 1e3 * median,
        "host_ms": 1e3 * statistics.median(host for _, host in laps),
        "first_s": first,
    }
    if device.type == "cuda":
        row["GiB"] = torch.cuda.max_memory_allocated() / 2**30
    torch._dynamo.reset()
    return row


def update_times(name: str, device: torch.device, rounds: int) -> dict[str, float]:
    """Medians, in seconds, of what follows a model's gradients; the ways take turns."""
    shape = (3, 256, 256) if reads_pixels(name) else (192, 16, 16)
    model = create_model(name, num_classes=10, input_shape=shape).to(device)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    ours, theirs = WeightAverage(model, 0.999), ModelEmaV3(model, decay=0.999, use_warmup=True)
    ways = {
        "average": lambda: ours.update(1000),
        "average, timm's": lambda: theirs.update(model, step=1001),
        "AdamW": build_optimizer(model, Recipe(), device.type).step,
        "AdamW, not fused": build_optimizer(model, Recipe(), "cpu").step,
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, update in ways.items():
            seconds = seconds_of(update, device)
            if number:  # the first is to warm up
                times[way].append(seconds)
    return {way: statistics.median(found) for way, found in times.items()}
