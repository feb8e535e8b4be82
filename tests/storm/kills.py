"""SIGKILL at any moment, and a disk that takes no more: what is done again must equal what was never disturbed."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ci2p_cache.verify import verify_split
from pipeline.train.checkpoint import load_checkpoint
from pipeline.train.weights_file import read_weights
from tests.conftest import files_of, write_image_folder
from tests.equal_runs import CLOCKS
from tests.storm.kind import Broken, Kind
from tests.storm.victims import convert, duration_of, encode, run_victim, train

LAYOUTS: tuple[dict[str, object], ...] = tuple(
    {"format": format, "store": store, "step": 0.5, "crops": 1}
    for format in ("zarr", "webdataset")
    for store in ("int", "rans", "float16")
)


@dataclass(frozen=True)
class _Encoding:
    images: Path
    whole: tuple[dict[str, bytes], ...]
    """Of each layout, every file of a cache that was never disturbed."""
    caches: tuple[Path, ...]
    seconds: float


def _prepare_encoding(home: Path) -> _Encoding:
    images = write_image_folder(home / "images", train=6, val=2)
    caches = []
    for number, settings in enumerate(LAYOUTS):
        caches.append(home / str(number))
        seconds = duration_of(encode, images, caches[-1], settings)
    return _Encoding(images, tuple(map(files_of, caches)), tuple(caches), seconds)


def _kill_encode(prepared: _Encoding, rng: random.Random, scratch: Path) -> str:
    layout = rng.randrange(len(LAYOUTS))
    work = (encode, prepared.images, scratch / "cache", LAYOUTS[layout])
    kills = sum(run_victim(*work, kill_after_s=rng.uniform(0, prepared.seconds)) == "killed" for _ in range(3))
    return _finish(work, prepared.whole[layout], f"equal after {kills} kills")


def _refuse_encode(prepared: _Encoding, rng: random.Random, scratch: Path) -> str:
    layout = rng.randrange(len(LAYOUTS))
    work = (encode, prepared.images, scratch / "cache", LAYOUTS[layout])
    largest = rng.randrange(max(map(len, prepared.whole[layout].values())))
    said = run_victim(*work, largest_file=largest)
    if said == "done" or str(scratch) not in said:
        raise Broken(f"no file may have more than {largest} bytes: {said}")
    return _finish(work, prepared.whole[layout], "refused in a line, then equal")


def _kill_convert(prepared: _Encoding, rng: random.Random, scratch: Path) -> str:
    source = rng.randrange(len(LAYOUTS))
    format = "webdataset" if LAYOUTS[source]["format"] == "zarr" else "zarr"
    whole = LAYOUTS.index(LAYOUTS[source] | {"format": format})
    work = (convert, prepared.caches[source], scratch / "cache", format)
    kills = sum(run_victim(*work, kill_after_s=rng.uniform(0, 0.15)) == "killed" for _ in range(3))
    if run_victim(*work) != "done":
        raise Broken("it does not go on")
    latents = {name for name in prepared.whole[whole] if name.endswith(".tar") or "/c/" in name}
    made = files_of(scratch / "cache")
    if not latents or any(made.get(name) != prepared.whole[whole][name] for name in latents):
        raise Broken("other bytes than encoding into that format gives")
    return _check(scratch / "cache", f"equal after {kills} kills")


def _finish(work: tuple[Any, ...], whole: dict[str, bytes], outcome: str) -> str:
    if (said := run_victim(*work)) != "done":
        raise Broken(f"it does not go on: {said}")
    made = files_of(work[2])
    if made != whole:
        other = sorted(name for name in made.keys() | whole.keys() if made.get(name) != whole.get(name))
        raise Broken(f"other files: {', '.join(other)}")
    return _check(work[2], outcome)


def _check(cache: Path, outcome: str) -> str:
    problems = verify_split(cache, "train") + verify_split(cache, "val")
    if problems:
        raise Broken(f"verify: {problems[0]}")
    return outcome


@dataclass(frozen=True)
class _Training:
    whole: Path
    seconds: float


def _prepare_training(home: Path) -> _Training:
    return _Training(home / "whole", duration_of(train, home / "whole"))


def _kill_train(prepared: _Training, rng: random.Random, scratch: Path) -> str:
    run = scratch / "run"
    kills = sum(run_victim(train, run, kill_after_s=rng.uniform(0, prepared.seconds)) == "killed" for _ in range(3))
    return finish_run(run, prepared.whole, f"equal after {kills} kills")


def _refuse_train(prepared: _Training, rng: random.Random, scratch: Path) -> str:
    run = scratch / "run"
    largest = rng.randrange((prepared.whole / "last.ckpt").stat().st_size)
    said = run_victim(train, run, largest_file=largest)
    if said == "done" or str(run) not in said:
        raise Broken(f"no file may have more than {largest} bytes: {said}")
    return finish_run(run, prepared.whole, "refused in a line, then equal")


def finish_run(run: Path, whole: Path, outcome: str) -> str:
    """Goes on with a training to its end, and holds it against one that was never disturbed."""
    if (said := run_victim(train, run)) != "done":
        raise Broken(f"it does not go on: {said}")
    assert_same_run(run, whole)
    leftovers = [path.name for path in run.iterdir() if path.name.endswith(".tmp")]
    if leftovers:
        raise Broken(f"left behind: {leftovers[0]}")
    return outcome


def assert_same_run(run: Path, whole: Path) -> None:
    """Raises Broken unless the weights, and what was measured of them, are the same to the bit."""
    for which in (_best, _last):
        ours, theirs = which(run), which(whole)
        if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
            raise Broken(f"other {which.__name__[1:]} weights than those of a run that was never disturbed")
    if _measured(run) != _measured(whole):
        raise Broken("other lines in metrics.jsonl than those of a run that was never disturbed")


def _best(run: Path) -> dict[str, torch.Tensor]:
    return read_weights(run / "best.safetensors")[0]


def _last(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = load_checkpoint(run / "last.ckpt")
    assert checkpoint is not None
    return checkpoint.model


def _measured(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in CLOCKS} for line in lines]


KINDS = (
    Kind(
        "encode-kills",
        "three SIGKILLs at random moments of `encode`, both formats, every store; then run to its end",
        "C4: every file equal to those of an encoding that was never killed, and verified",
        _prepare_encoding,
        _kill_encode,
    ),
    Kind(
        "encode-disk",
        "a disk that refuses to let a file grow beyond a random size, then one that does not",
        "an error that names the file; then C4",
        _prepare_encoding,
        _refuse_encode,
    ),
    Kind(
        "convert-kills",
        "three SIGKILLs at random moments of `convert` between the formats; then run to its end",
        "the shards that encoding into that format gives, and verified",
        _prepare_encoding,
        _kill_convert,
    ),
    Kind(
        "train-kills",
        "three SIGKILLs at random moments of a training; then run to its end",
        "T3: weights and metrics equal to the bit to those of a training that was never killed; nothing left behind",
        _prepare_training,
        _kill_train,
    ),
    Kind(
        "train-disk",
        "a disk that refuses to let a file grow beyond a random size, then one that does not",
        "an error that names the file; then T3",
        _prepare_training,
        _refuse_train,
    ),
)
