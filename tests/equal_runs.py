"""Whether two run folders are those of the same training."""

from pathlib import Path
from typing import Any

import torch

from pipeline.train.checkpoint import load_checkpoint
from pipeline.train.metrics_log import read_metrics
from pipeline.train.weights_file import read_weights

CLOCKS = ("images_per_s", "seconds", "fetched_bytes", "stalled_s")  # and what was fetched since the run was resumed


def tensors_of(value: Any, name: str = "") -> dict[str, Any]:
    """Every tensor and plain value of a nested state, by path."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in tensors_of(inner, f"{name}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for key, inner in enumerate(value) for k, v in tensors_of(inner, f"{name}/{key}").items()}
    return {name: value}


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Bit for bit: weights, moments, progress, best weights and metrics; clocks excepted."""
    left, right = load_checkpoint(ours / "last.ckpt"), load_checkpoint(theirs / "last.ckpt")
    assert left is not None and right is not None
    for field in ("model", "optimizer", "precision", "ema"):
        states = [tensors_of(getattr(checkpoint, field)) for checkpoint in (left, right)]
        assert states[0].keys() == states[1].keys()
        for name, value in states[0].items():
            other = states[1][name]
            same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
            assert same, f"{field}{name} differs"
    for field in ("epoch", "step", "loss_sum", "best_top1", "best_epoch", "last_top1", "num_images"):
        assert getattr(left.progress, field) == getattr(right.progress, field), field
    best, other_best = (read_weights(run / "best.safetensors")[0] for run in (ours, theirs))
    assert best.keys() == other_best.keys() and all(torch.equal(best[name], other_best[name]) for name in best)
    lines = [[{k: v for k, v in line.items() if k not in CLOCKS} for line in read_metrics(r)] for r in (ours, theirs)]
    assert lines[0] == lines[1]
