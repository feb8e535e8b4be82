"""Damage to files that were good: it is found, or changes nothing."""

import contextlib
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ci2p_cache.cache import open_cache
from ci2p_cache.errors import Ci2pError
from ci2p_cache.loader import BatchLoader
from ci2p_cache.verify import find_splits, verify_split
from tests.conftest import write_image_folder
from tests.storm.kills import LAYOUTS, assert_same_run
from tests.storm.kind import Broken, Kind
from tests.storm.victims import encode, run_victim, train


def flip(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    if not data:
        return append(path, rng)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return "flipped bit"


def overwrite(path: Path, rng: random.Random) -> str:
    """A block of zeros, as a disk leaves it that lost power."""
    data = bytearray(path.read_bytes())
    if not any(data):
        return flip(path, rng)
    begin = rng.choice([place for place, byte in enumerate(data) if byte])
    length = min(len(data) - begin, rng.choice((1, 64, 512, 4096)))
    data[begin : begin + length] = bytes(length)
    path.write_bytes(data)
    return "zeroed block"


def cut(path: Path, rng: random.Random) -> str:
    data = path.read_bytes()
    if not data:
        return append(path, rng)
    path.write_bytes(data[: rng.randrange(len(data))])
    return "cut file"


def append(path: Path, rng: random.Random) -> str:
    with path.open("ab") as file:
        file.write(rng.randbytes(rng.randint(1, 40)))
    return "longer file"


def remove(path: Path, rng: random.Random) -> str:
    path.unlink()
    return "lost file"


_DAMAGES: tuple[Callable[[Path, random.Random], str], ...] = (flip, flip, flip, overwrite, cut, append, remove)


def _swap(folder: Path, rng: random.Random) -> str:
    """Two files that differ in contents change names."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    while True:
        first, second = rng.sample(files, 2)
        if first.read_bytes() != second.read_bytes():
            break
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    return "swapped files"


def _add(folder: Path, rng: random.Random) -> str:
    files = [path for path in folder.rglob("*") if path.is_file()]
    beside = rng.choice(files)
    (beside.parent / f"copy-of-{beside.name}").write_bytes(beside.read_bytes())
    return "strange file"


def damage(folder: Path, rng: random.Random) -> str:
    """Does one thing to one file below a folder, or to two; says what."""
    if (drawn := rng.random()) < 0.1:
        return _swap(folder, rng)
    if drawn < 0.15:
        return _add(folder, rng)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return rng.choice(_DAMAGES)(rng.choice(files), rng)


@dataclass(frozen=True)
class Caches:
    """A cache of each layout, and what is read from it."""

    caches: tuple[Path, ...]
    values: tuple[list[tuple[bytes, bytes]], ...]


def prepare_caches(home: Path) -> Caches:
    images = write_image_folder(home / "images", train=3, val=2)
    for number, settings in enumerate(LAYOUTS):
        encode(images, home / str(number), settings)
    caches = tuple(home / str(number) for number in range(len(LAYOUTS)))
    return Caches(caches, tuple(read_everything(cache) for cache in caches))


def read_everything(cache: Path | str) -> list[tuple[bytes, bytes]]:
    """Latents and labels of every view, in the order of validation and of one epoch of training."""
    read = []
    for split in ("train", "val"):
        opened = open_cache(cache, split)
        for view in range(len(opened.spec.views)):
            loader = BatchLoader(opened, batch_size=4, view=view, shuffle=False, resident="off")
            read += [(batch.latents.numpy().tobytes(), batch.labels.numpy().tobytes()) for batch in loader.epoch(0)]
    return read


def _damage_cache(prepared: Caches, rng: random.Random, scratch: Path) -> str:
    layout = rng.randrange(len(LAYOUTS))
    cache = scratch / "cache"
    shutil.copytree(prepared.caches[layout], cache)
    done = damage(cache, rng)
    try:
        problems = [problem for split in find_splits(cache) for problem in verify_split(cache, split)]
    except Ci2pError as error:
        problems = [str(error)]
    if not problems:
        raise Broken(f"verify does not see it ({done})")
    try:
        same = read_everything(cache) == prepared.values[layout]
    except Ci2pError:
        return "found, and refused by reading"
    if not same:
        raise Broken(f"other values are read in silence ({done})")
    return "found, and no value changed"


@dataclass(frozen=True)
class _Runs:
    begun: Path
    whole: Path


def _prepare_runs(home: Path) -> _Runs:
    from tests.toy_training import Killed, ToyData, train_toy

    train_toy(home / "whole", checkpoint_every_steps=2)
    with contextlib.suppress(Killed):
        train_toy(home / "begun", ToyData(fault=("kill", 1, 3)), checkpoint_every_steps=2)
    return _Runs(home / "begun", home / "whole")


def _damage_run(prepared: _Runs, rng: random.Random, scratch: Path) -> str:
    run = scratch / "run"
    shutil.copytree(prepared.begun, run)
    done = damage(run, rng)
    lost = [name for name in ("best.safetensors", "metrics.jsonl") if not (run / name).exists()]
    said = run_victim(train, run)
    if said != "done":
        if str(run) not in said:
            raise Broken(f"{done}: an error that names no file: {said}")
        return "refused by name"
    try:
        for name in lost:  # which is said; what follows is kept
            shutil.copyfile(prepared.whole / name, run / name)
        assert_same_run(run, prepared.whole)
    except Broken as error:
        raise Broken(f"{done}: {error}") from None
    return "gone on with, equal"


def _damage_weights(prepared: _Runs, rng: random.Random, scratch: Path) -> str:
    run = scratch / "run"
    shutil.copytree(prepared.whole, run)
    done = rng.choice(_DAMAGES)(run / rng.choice(("best.safetensors", "best.safetensors", "config.json")), rng)
    try:
        same = _weights(run) == _weights(prepared.whole)
    except Ci2pError as error:
        if str(run) not in str(error):
            raise Broken(f"{done}: an error that names no file: {error}") from None
        return "refused by name"
    if not same:
        raise Broken(f"{done}: another model is loaded in silence")
    return "no weight changed"


def _weights(run: Path) -> dict[str, Any]:
    from pipeline.train.trained_model import load_model
    from tests.toy_training import build_small

    model, config = load_model(run, build_small)
    named: dict[str, Any] = {name: np.asarray(value).tobytes() for name, value in model.state_dict().items()}
    return named | {"classes": config.data.classes, "spec": config.data.spec, "model": config.recipe.model}


KINDS = (
    Kind(
        "cache-damage",
        "a bit flipped, a block zeroed, a file cut, lengthened, lost, swapped or added, in any file of a cache",
        "C6: `verify` finds it; reading without it refuses by name, or reads what was written",
        prepare_caches,
        _damage_cache,
    ),
    Kind(
        "run-damage",
        "the same to any file of an unfinished run, which is then gone on with",
        "refused by name, or gone on with to the same weights and metrics to the bit",
        _prepare_runs,
        _damage_run,
    ),
    Kind(
        "weights-damage",
        "the same to best.safetensors or config.json, which are then loaded",
        "refused by name, or the same model",
        _prepare_runs,
        _damage_weights,
    ),
)
