"""One run: a run folder is one process group's, and holds what one run wrote (promise T5)."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from math import ceil
from pathlib import Path

from lightning_fabric import Fabric

from ci2p_cache.errors import Ci2pError, InputError, WorkError
from ci2p_cache.printable import counted
from ci2p_cache.publish import sweep
from pipeline.running.lock import Lock
from pipeline.train.checkpoint import NEWEST, PREVIOUS, Checkpoint, Progress
from pipeline.train.data import is_same
from pipeline.train.recipe import Recipe
from pipeline.train.run_folder import (
    CONFIG,
    FREE_FIELDS,
    LENGTH_FIELDS,
    METRICS,
    DataRecord,
    RunConfig,
    read_config,
    writing_to,
)

LOCK = "train.lock"
# What there is no getting back once it is written over.
_WORTH_KEEPING = (METRICS, "*.ckpt", "*.safetensors", "*.onnx", "*.pt2")


@contextmanager
def only_run_in(run: Path, fabric: Fabric) -> Iterator[Lock | None]:
    """Holds the run folder, made if need be, and swept of what killed processes left in it; the lock on rank 0.

    Raises the same on every rank: InputError when another training holds it, or it is no folder; WorkError when it
    cannot be written to.
    """
    lock, refusal = None, None
    made = list(takewhile(lambda folder: not folder.exists(), (run, *run.parents)))
    if fabric.is_global_zero:
        try:
            lock = _lock(run)
        except Ci2pError as error:
            refusal = error
    refusal = fabric.broadcast(refusal)
    if refusal is not None:
        raise refusal
    if lock is None:
        yield None
        return
    try:
        with lock:
            yield lock
    finally:
        for folder in made:  # what was begun in vain leaves nothing behind
            with suppress(OSError):  # it holds something
                folder.rmdir()


def _lock(run: Path) -> Lock:
    if run.exists() and not run.is_dir():
        raise InputError(f"--out {run} is a file; give the name of a folder")
    with writing_to(run):
        run.mkdir(parents=True, exist_ok=True)
        lock = Lock(run / LOCK, work=f"{run}: a training", way_out="wait for its end, or give another --out")
        sweep(run)
    return lock


def check_run(run: Path, config: RunConfig) -> None:
    """Sees to it that `config` continues the run that a folder holds, if it holds one.

    Without a checkpoint a run is begun anew, and may be where nothing but its config was written, or epochs of the very
    same run, killed before its first checkpoint: that has no weights. Raises InputError naming the first field that
    would change the result, both values and the way out, or the file that would be lost.
    """
    if any((run / name).exists() for name in (NEWEST, PREVIOUS)):
        refuse_other_run(run, read_config(run), config)
        return
    worth = [path for pattern in _WORTH_KEEPING for path in sorted(run.glob(pattern))]
    if worth:
        refused = f"{run} holds {worth[0].name} and no {NEWEST} to go on from, and is not written over; "
        is_run = (run / CONFIG).exists() and (worth == [run / METRICS] or not (run / METRICS).exists())
        if not is_run:
            raise InputError(f"{refused}give another --out, or move that away")
        refuse_other_run(run, read_config(run), config)
    elif (run / CONFIG).exists():
        read_config(run)  # another program's is not written over


def refuse_other_run(run: Path, theirs: RunConfig, ours: RunConfig) -> None:
    """Raises InputError unless `ours` continues `theirs`, or extends it: see `check_length`."""
    free = FREE_FIELDS | (LENGTH_FIELDS if theirs.recipe.schedule == ours.recipe.schedule == "constant" else set())
    pairs: list[tuple[str, object, object]] = [
        (field, getattr(theirs.recipe, field), getattr(ours.recipe, field))
        for field in Recipe.model_fields
        if field not in free
    ]
    pairs.append(("classes", theirs.data.classes, ours.data.classes))
    pairs.append(("input_shape", theirs.data.input_shape, ours.data.input_shape))
    pairs.append(("data", f"{theirs.data.path} {theirs.data.fingerprint}", f"{ours.data.path} {ours.data.fingerprint}"))
    for field, there, here in pairs:
        same = is_same(theirs.data.fingerprint, ours.data.fingerprint) if field == "data" else there == here
        if not same and field == "epochs":
            raise InputError(
                f"{run} has a schedule of {counted(theirs.recipe.epochs, 'epoch')}, which ends where it ends; "
                f"for more, train from its weights: --init-from {run} --epochs {here} and another --out "
                "(a run with schedule=constant can be extended)"
            )
        if not same:
            raise InputError(
                f"{run} holds another run: {field} is {there!r} there and {here!r} in this command; "
                "give another --out, or the same settings to go on with it"
            )
    if theirs.data.order_version != ours.data.order_version:
        raise InputError(
            f"{run} was begun by a ci2p that has samples come in another order; go on with that one, or give "
            "another --out"
        )
    if theirs.data.window_shards not in (None, ours.data.window_shards):
        raise InputError(
            f"{run} was begun in another order: {_order(theirs.data)} there and {_order(ours.data)} in this command; "
            f"give --shards and --resident as they were (it was begun on {theirs.data.path}), or another --out"
        )


def check_length(run: Path, config: RunConfig, progress: Progress) -> None:
    """Raises InputError where a run is to end elsewhere than it was and would have got there by other rates so far."""
    theirs, ours = read_config(run).recipe, config.recipe
    begun = progress.epoch + (progress.step > 0)
    if all(getattr(theirs, field) == getattr(ours, field) for field in LENGTH_FIELDS):
        return
    if begun > theirs.epochs_at_peak:
        raise InputError(
            f"{run}: its learning rate has fallen since epoch {theirs.epochs_at_peak:g} (decay_epochs = "
            f"{theirs.decay_epochs:g} of {theirs.epochs}); for more, train from its weights: --init-from {run} "
            f"--epochs {ours.epochs} and another --out"
        )
    if begun > ours.epochs_at_peak:
        fallen = f"the rate falls from epoch {ours.epochs_at_peak:g} on" if ours.decay_epochs else "there are no more"
        raise InputError(
            f"{run} has {counted(begun, 'epoch')} behind it, and with --epochs {ours.epochs} {fallen}; "
            f"give --epochs {begun + ceil(ours.decay_epochs)} or more, or another --out"
        )


def check_checkpoint(run: Path, checkpoint: Checkpoint | None, config: RunConfig) -> None:
    """Raises WorkError for a checkpoint that another run wrote, and that came into this one's folder later."""
    if checkpoint is not None and checkpoint.run not in ("", config.run_id):
        raise WorkError(
            f"{run / NEWEST} is of another run than {CONFIG} beside it; put that run's own back, or give another --out"
        )


def _order(data: DataRecord) -> str:
    if data.window_shards:
        return f"streamed, {counted(data.window_shards, 'shard')} at a time"
    return "all samples mixed"
