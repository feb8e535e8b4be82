"""What checkpoints cost a training: its wall clock beside its steps and evaluations, by how often one is due.

    python benchmarks/checkpoints.py --shards caches/images [--model ci2p_vit_base] [--minutes 10 0.1] [--rounds 3]

Trains some epochs anew for each clock, the clocks taking turns, so that what else the machine does falls on all. Prints
the seconds in all, those of steps and evaluations as metrics.jsonl has them (writing slows them down where they share
cores with it), and what share of all is neither: copies, waiting, and at the end the last checkpoint.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from commands import command_line, machine

from ci2p_cache.publish import publish
from pipeline.train.data import open_training_data
from pipeline.train.loop import train
from pipeline.train.metrics_log import read_metrics
from pipeline.train.recipe import load_recipe

Round = dict[str, float]


def measure(arguments: argparse.Namespace, minutes: float) -> Round:
    settings = {"model": arguments.model, "epochs": arguments.epochs, "batch_size": arguments.batch_size}
    recipe = load_recipe("quick", settings | {"checkpoint_every_minutes": minutes})
    data = open_training_data(arguments.shards)
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        run = Path(work) / "run"
        begin = time.monotonic()
        result = train(recipe, data, run, device=arguments.device)
        wall = time.monotonic() - begin
        epochs = sum(line["seconds"] for line in read_metrics(run))
        size = (run / "last.ckpt").stat().st_size
    return {"wall_s": wall, "reported_s": result.seconds, "epochs_s": epochs, "checkpoint_bytes": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", required=True)
    parser.add_argument("--model", default="ci2p_vit_base")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument(
        "--minutes", type=float, nargs="+", default=[10.0, 0.1], help="clocks: checkpoint_every_minutes"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where runs are written, and removed; the disk that is measured")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rounds: dict[str, list[Round]] = {str(minutes): [] for minutes in arguments.minutes}
    for _ in range(arguments.rounds):
        for minutes in arguments.minutes:
            rounds[str(minutes)].append(measure(arguments, minutes))
    print(f"{machine()}; {arguments.model}, {arguments.epochs} epochs, {arguments.rounds} rounds")
    for minutes_text, found in rounds.items():
        reported, epochs = (statistics.median(one[key] for one in found) for key in ("reported_s", "epochs_s"))
        shares = [1 - one["epochs_s"] / one["reported_s"] for one in found]
        print(
            f"every {minutes_text} min: {reported:.1f} s, steps and evaluations {epochs:.1f} s, the rest "
            f"{100 * statistics.median(shares):.1f} % ({100 * min(shares):.1f}-{100 * max(shares):.1f}); "
            f"a checkpoint of {found[0]['checkpoint_bytes'] / 1e6:.0f} MB"
        )
    if arguments.json:
        result = {"command": command_line(), "machine": machine(), "rounds": rounds}
        publish(arguments.json, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
