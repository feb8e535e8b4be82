"""What a checkpoint costs a training: how long it stands still for one, waiting for the disk or for a copy in memory.

    python benchmarks/checkpoints.py [--model ci2p_vit_base] [--device cpu] [--steps-per-epoch 5] [--rounds 3]

A model and AdamW's moments after a step, on random latents. Each round times a step; a checkpoint with new best weights
that is waited for; and the copy after which training goes on, while a thread writes the same files. In seconds of the
clock, and of the processor by the thread that trains, which a busy machine changes less. The shares are of epochs of so
many steps with a checkpoint each, waited for, and of ten minutes with one, copied.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from commands import command_line, machine

from ci2p_cache.publish import publish
from pipeline.models import create_model
from pipeline.running.lock import Lock
from pipeline.train.checkpoint import Progress
from pipeline.train.checkpoint_writer import CheckpointWriter
from pipeline.train.launch import deterministic_on_cpu, launch
from pipeline.train.learner import Learner
from pipeline.train.recipe import load_recipe
from pipeline.train.run_folder import RunConfig

CLASSES, SHAPE = 10, (192, 16, 16)
CLOCK_S = 600.0


class Batch:
    """Random latents [B,192,16,16] and labels."""

    def __init__(self, size: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        self.latents = torch.randn(size, *SHAPE, generator=generator).to(device)
        self.labels = torch.randint(CLASSES, (size,), generator=generator).to(device)


class Alone:
    """A folder that nobody else wants, and a config that says nothing."""

    def check(self) -> None: ...

    def model_dump_json(self) -> str:
        return "{}"


def timed(do: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds of the clock, and of this thread on the processor."""
    wall, cpu = time.monotonic(), time.thread_time()
    do()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic() - wall, time.thread_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ci2p_vit_base")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps-per-epoch", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="the disk that is measured; a temporary folder if not given")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    precision = "float32"
    recipe = load_recipe(
        "quick", {"model": arguments.model, "batch_size": arguments.batch_size, "precision": precision}
    )
    fabric = launch(arguments.device, precision)
    device = fabric.device
    model = create_model(arguments.model, num_classes=CLASSES, input_shape=SHAPE)
    learner = Learner(fabric, model, recipe, steps_per_epoch=arguments.steps_per_epoch, num_classes=CLASSES)
    batch = cast(Any, Batch(arguments.batch_size, device))
    times: dict[str, list[tuple[float, float]]] = {"step": [], "waited for": [], "copied": [], "written": []}
    torch.set_num_threads(1)  # so that its thread's time is all of a step's
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder, deterministic_on_cpu(device):
        run = Path(folder)
        with CheckpointWriter(run, cast(Lock, Alone()), cast(RunConfig, Alone()), "") as writer:

            def copy() -> None:
                writer.keep_best(learner.evaluated)
                writer.write(learner.checkpoint(Progress(), ""))

            for number in range(arguments.rounds + 1):
                step = timed(lambda number=number: learner.learn(batch, number, number), device)  # type: ignore[misc]
                cpu = time.process_time()
                waited = timed(lambda: (copy(), writer.wait()), device)
                waited = waited[0], time.process_time() - cpu
                copied = timed(copy, device)
                written = timed(writer.wait, device)
                if number:  # the first is to warm up
                    for name, found in zip(times, (step, waited, copied, written), strict=True):
                        times[name].append(found)
        size = sum(path.stat().st_size for path in run.iterdir()) - (run / "previous.ckpt").stat().st_size
    print(f"{machine()}; {arguments.model}, batches of {arguments.batch_size}, {arguments.rounds} rounds")
    medians = {name: [statistics.median(each) for each in zip(*found, strict=True)] for name, found in times.items()}
    for name, (wall, cpu) in medians.items():
        print(f"{name:<12}{wall:>8.2f} s, {cpu:.2f} s of the processor" + (f", {size / 1e6:.0f} MB" * (name != "step")))
    shares = {}
    for which, place in (("clock", 0), ("processor", 1)):
        epoch = arguments.steps_per_epoch * medians["step"][place]
        waited_share = medians["waited for"][place] / (epoch + medians["waited for"][place])
        copied_share = medians["copied"][place] / CLOCK_S
        shares[which] = {"waited for every epoch": waited_share, "copied every ten minutes": copied_share}
        print(f"by the {which}: {100 * waited_share:.1f} % every epoch, {100 * copied_share:.2f} % every ten minutes")
    if arguments.json:
        result = {"command": command_line(), "machine": machine(), "seconds": times, "bytes": size, "shares": shares}
        publish(arguments.json, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
