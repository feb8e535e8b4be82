"""The training loop: batches of latents in, a run folder out. One walk from top to bottom.

Steps and epochs are counted from 0 inside; metrics and messages speak of epochs from 1. Whatever is random is a
function of (seed, epoch, step), so that a resumed run is the run (promise T3).
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning_fabric import Fabric

from ci2p_cache.traffic import traffic
from pipeline.models import create_model
from pipeline.models.token_drop import drop_tokens
from pipeline.running import signals
from pipeline.running.deadlines import Deadlines
from pipeline.running.devices import named_device
from pipeline.running.launched import launched_as
from pipeline.running.lock import Lock
from pipeline.running.peers import lost_peers
from pipeline.running.progress import progress as show_progress
from pipeline.running.tf32 import float32_products
from pipeline.train.checkpoint import Progress, refuse_non_finite, take_previous
from pipeline.train.checkpoint_writer import CheckpointWriter
from pipeline.train.data import Share, TrainingData
from pipeline.train.fetched import fetched_by_machine
from pipeline.train.launch import agreed, deterministic_on_cpu, launch
from pipeline.train.learner import Learner
from pipeline.train.loggers.follower import Loggers, require_loggers
from pipeline.train.metrics_log import EpochMetrics, MetricsLog
from pipeline.train.obstacles import refuse_untrainable, step_errors
from pipeline.train.one_run import only_run_in
from pipeline.train.precision import decided
from pipeline.train.recipe import Recipe
from pipeline.train.run_folder import (
    BEST,
    ModelBuilder,
    build_model,
    read_known_images,
    resolve_config,
    write_config,
    writing_to,
)
from pipeline.train.same_start import find_start
from pipeline.train.starting_point import remember_ancestor, start_from
from pipeline.train.steps import epoch_steps
from pipeline.train.trained_model import check_best, settle_best
from pipeline.train.validation import validate
from pipeline.train.weights_file import read_seal
from pipeline.train.window import windowed

logger = logging.getLogger("ci2p")


@dataclass(frozen=True)
class TrainResult:
    """What a run has come to, over all its interruptions."""

    run: Path
    finished: bool
    epochs: int
    """Finished ones."""
    best_top1: float | None
    """In [0, 1]; None before the first evaluation."""
    final_top1: float | None
    images_per_s: float
    """Training steps alone, those of an unfinished epoch too; 0 before the first."""
    seconds: float
    params: int
    best_confusion: list[list[int]] | None = None
    """What the best weights confuse, of `Validation`; None where this call has not evaluated them."""


def train(
    recipe: Recipe,
    data: TrainingData,
    run: Path,
    *,
    device: str = "auto",
    max_minutes: float | None = None,
    build: ModelBuilder = create_model,
    callbacks: Sequence[Callable[[EpochMetrics], bool | None]] = (),
    loggers: Sequence[str] = (),
) -> TrainResult:
    """Trains until the recipe's last epoch or `max_minutes`, from the run folder's checkpoint if it has one.

    Rank 0 calls each of `callbacks` when an epoch is over and its line written; one that returns True ends the run as
    the clock would. A signal that the command line heeds ends it likewise, and raises Ended; Ctrl-C, KeyboardInterrupt.
    `loggers` are names of `pipeline.train.loggers`, which rank 0 sends every epoch to.

    Checkpoints are written by the recipe's clock or count of steps, where an epoch ends and writing takes little beside
    it, and at the end, however it comes, but by a kill or an error: what came since the last one then comes again.

    Under torchrun every process calls this; rank 0 writes. Raises InputError for a run folder that holds another
    run or is being trained into, a single class, a batch that does not divide by the processes or is too small, a
    device or a logger that is not there, a window that does not fit or tokens that the model cannot drop; WorkError
    when a loss or a weight is no longer finite (the last checkpoint stays as it was), the disk refuses, or the
    checkpoint is damaged.
    """
    require_loggers(loggers)
    data = windowed(data, recipe.window)
    deadlines = Deadlines(checkpoint_every_minutes=recipe.checkpoint_every_minutes, max_minutes=max_minutes)
    recipe = decided(recipe, run, named_device(device, auto_mps=True))
    fabric = launch(device, recipe.precision)
    share = Share(fabric.global_rank, fabric.world_size, fabric.device)
    refuse_untrainable(recipe, data, share)
    is_tf32 = recipe.precision == "tf32"
    with lost_peers(launched_as()), float32_products(tf32=is_tf32), only_run_in(run, fabric) as lock:
        return _train(recipe, data, run, fabric, share, lock, deadlines, build, callbacks, loggers)


def _train(
    recipe: Recipe,
    data: TrainingData,
    run: Path,
    fabric: Fabric,
    share: Share,
    lock: Lock | None,
    deadlines: Deadlines,
    build: ModelBuilder,
    callbacks: Sequence[Callable[[EpochMetrics], bool | None]],
    loggers: Sequence[str],
) -> TrainResult:
    """`train`, in a folder that is its own; the `lock` is on rank 0, which writes."""
    is_writer = lock is not None
    seen = traffic()
    torch.manual_seed(recipe.seed)
    config = resolve_config(recipe, data, run=run, device=str(share.device), world_size=share.world_size)
    checkpoint, is_previous = find_start(run, config)
    model = build_model(config, build, pretrained=recipe.pretrained if checkpoint is None else False)
    if recipe.init_from and checkpoint is None:
        start_from(model, config)
    drop_tokens(model, recipe.token_drop)
    params = sum(parameter.numel() for parameter in model.parameters())
    images_per_step = min(recipe.batch_size, data.num_train)
    progress = checkpoint.progress if checkpoint is not None else Progress()
    if progress.epoch >= recipe.epochs:
        if is_writer:
            best = 100 * progress.best_top1
            extended = "more --epochs extend it, " if recipe.schedule == "constant" else ""
            begun_anew = f"{extended}another --out or --seed begins another run"
            logger.info("%s is finished: best top-1 %.2f %%; %s", run, best, begun_anew)
            if checkpoint is not None:
                with writing_to(run):
                    settle_best(run, checkpoint)
                with Loggers(loggers, run, config) as followers:
                    followers.follow(checkpoint.metrics or "", finished=True)
        return _result(run, recipe, progress, images_per_step, params)

    if checkpoint is not None:
        progress = check_best(run, checkpoint)
    train_batches = data.train_batches(
        share, batch_size=recipe.batch_size, seed=recipe.seed, flip=recipe.flip != "none"
    )
    val_batches = data.val_batches(share, batch_size=recipe.batch_size)
    fabric.barrier()  # all have read what rank 0 now writes over
    if is_writer:
        with writing_to(run):
            if is_previous:
                take_previous(run)
            settle_best(run, checkpoint)
        known = read_known_images(run) if recipe.init_from and checkpoint is not None else None
        write_config(run, config, known or remember_ancestor(data.known_images(), recipe.init_from))
    steps_per_epoch = train_batches.steps_per_epoch
    learner = Learner(fabric, model, recipe, steps_per_epoch=steps_per_epoch, num_classes=len(data.classes))
    if checkpoint is not None:
        learner.restore(checkpoint)
        if is_writer:
            where = f"epoch {progress.epoch + 1} after step {progress.step}"
            logger.info("%s resumes in %s; another --out or --seed begins another run", run, where)

    saving_seconds = 0.0  # that are not in `progress` yet: a checkpoint cannot say what its own writing will take

    def save(progress: Progress, *, wait: bool) -> None:
        """Only with `wait` it is written on return."""
        nonlocal saving_seconds
        started = time.monotonic()
        refuse_non_finite(learner.model, progress.epoch * steps_per_epoch + progress.step)
        if writer is not None and log is not None:
            writer.write(replace(learner.checkpoint(progress, config.run_id), metrics=log.text))
            if wait:
                writer.wait()
        deadlines.saved()
        saving_seconds += time.monotonic() - started

    with ExitStack() as stack:
        stack.enter_context(signals.finishing(interrupts=True))
        stack.enter_context(step_errors(recipe, data, share))
        stack.enter_context(deterministic_on_cpu(share.device))
        steps_done = progress.epoch * steps_per_epoch + progress.step
        remembered = checkpoint.metrics if checkpoint is not None else None
        log = stack.enter_context(MetricsLog(run, progress.epoch, steps_done, remembered)) if is_writer else None
        followers = stack.enter_context(Loggers(loggers if is_writer else (), run, config))
        if log is not None:
            followers.follow(log.text, finished=False)
        num_steps = recipe.epochs * steps_per_epoch
        advance = stack.enter_context(show_progress("train", num_steps, "steps", start=steps_done, quiet=not is_writer))
        writer = None
        if lock is not None:
            seal = read_seal(run / BEST) if progress.best_epoch else ""
            writer = stack.enter_context(CheckpointWriter(run, lock, config, seal))
        stop, told, confusion = False, None, None
        while progress.epoch < recipe.epochs and not stop:
            is_due = False
            # Train: the epoch's steps, with checkpoints between them.
            for exchange in epoch_steps(fabric, learner, train_batches, recipe, progress, share, deadlines, writer):
                new_steps = exchange.progress.step - progress.step
                progress, stop, told, is_due = exchange.progress, exchange.stop, exchange.told, exchange.checkpoint
                if writer is not None:
                    writer.check()
                rate = progress.step * images_per_step / progress.epoch_seconds
                loss = progress.loss_sum / progress.step
                advance(new_steps, f"epoch {progress.epoch + 1}, loss {loss:.3f}, {rate:.1f} images/s")
                if progress.step < steps_per_epoch or told:
                    if is_due or stop:
                        save(progress, wait=stop)
                    if stop:
                        break
            if progress.step < steps_per_epoch or told:
                break

            # Evaluate.
            epoch, started = progress.epoch + 1, time.monotonic()
            found = None
            if epoch % recipe.eval_every == 0 or epoch == recipe.epochs:
                learner.share_statistics()
                found = validate(fabric, learner.evaluated, val_batches, num_classes=len(data.classes))
                told = agreed(fabric)
                if told:  # the whole evaluation comes again
                    save(progress, wait=True)
                    break
                progress = replace(progress, last_top1=found.top1)
                if found.top1 > progress.best_top1:
                    progress = replace(progress, best_top1=found.top1, best_epoch=epoch)
                    confusion = found.confusion
            eval_seconds = time.monotonic() - started

            # Record. The line is for whoever watches: a checkpoint holds all of them, and a resume goes by those.
            now = traffic()
            is_remote = "://" in data.path
            fetched_bytes, stalled_s = fetched_by_machine(now - seen, launched_as()) if is_remote else (None, None)
            seen = now
            metrics = EpochMetrics(
                epoch=epoch,
                step=epoch * steps_per_epoch,
                train_loss=progress.loss_sum / progress.step,
                val_top1=None if found is None else found.top1,
                val_top5=None if found is None else found.top5,
                val_loss=None if found is None else found.loss,
                lr=learner.lr,
                images_per_s=progress.step * images_per_step / progress.epoch_seconds,
                seconds=progress.epoch_seconds + eval_seconds,
                fetched_bytes=fetched_bytes,
                stalled_s=stalled_s,
            )
            refuse_non_finite(learner.model, metrics.step)
            if writer is not None and progress.best_epoch == epoch:
                writer.keep_best(learner.evaluated)
            if log is not None:
                with writing_to(run):
                    log.write(metrics)
                logger.info("%s", metrics.line(recipe.epochs))
            other_seconds = time.monotonic() - started + saving_seconds
            progress = progress.next_epoch(num_images=progress.step * images_per_step, other_seconds=other_seconds)
            saving_seconds = 0.0
            if callbacks:
                answers = [callback(metrics) for callback in callbacks] if is_writer else []  # every one is called
                stop = fabric.broadcast(any(answers)) or stop
            is_finished = progress.epoch >= recipe.epochs
            if is_due or stop or is_finished:
                save(progress, wait=stop or is_finished)
            if log is not None:
                followers.follow(log.text, finished=is_finished)
    if told:
        raise signals.ended_resumably(told)
    if is_writer and progress.epoch < recipe.epochs:
        logger.info("%s stopped in time in epoch %d; run the same command to go on", run, progress.epoch + 1)
    fabric.barrier()
    progress = replace(progress, total_seconds=progress.total_seconds + saving_seconds)
    return replace(_result(run, recipe, progress, images_per_step, params), best_confusion=confusion)


def _result(run: Path, recipe: Recipe, progress: Progress, images_per_step: int, params: int) -> TrainResult:
    num_images = progress.num_images + progress.step * images_per_step
    train_seconds = progress.train_seconds + progress.epoch_seconds
    return TrainResult(
        run=run,
        finished=progress.epoch >= recipe.epochs,
        epochs=progress.epoch,
        best_top1=progress.best_top1 if progress.best_epoch else None,
        final_top1=progress.last_top1 if progress.best_epoch else None,
        images_per_s=num_images / train_seconds if num_images else 0.0,
        seconds=progress.total_seconds,
        params=params,
    )
