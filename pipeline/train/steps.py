"""The steps of an epoch, and the places between them where all ranks stand together."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from lightning_fabric import Fabric

from pipeline.running import signals
from pipeline.running.deadlines import Deadlines
from pipeline.train.checkpoint import Progress
from pipeline.train.checkpoint_writer import CheckpointWriter
from pipeline.train.data import Batches, Share
from pipeline.train.launch import step_seed
from pipeline.train.learner import Learner
from pipeline.train.loss_log import LossLog
from pipeline.train.recipe import Recipe

# A GPU runs ahead of the host until it is asked for a loss; asking rarely keeps it busy. A CPU loses nothing by it.
_STEPS_PER_EXCHANGE = {"cpu": 1, "cuda": 16, "mps": 16}


@dataclass(frozen=True)
class Exchange:
    """Where all ranks stand together: losses settled, what rank 0's clock wants, and what any of them was told."""

    progress: Progress
    checkpoint: bool
    stop: bool
    told: int | None  # the signal that ends the run


def epoch_steps(
    fabric: Fabric,
    learner: Learner,
    batches: Batches,
    recipe: Recipe,
    progress: Progress,
    share: Share,
    deadlines: Deadlines,
    writer: CheckpointWriter | None,
) -> Iterator[Exchange]:
    """Learns the rest of an epoch, and yields at every exchange; the time until it is resumed does not count."""
    num_steps = batches.steps_per_epoch
    losses = LossLog(progress.loss_sum, progress.step)
    lap = time.monotonic()
    for step, batch in enumerate(batches.epoch(progress.epoch, progress.step), start=progress.step):
        run_step = progress.epoch * num_steps + step
        loss = learner.learn(batch, run_step, step_seed(recipe.seed, progress.epoch, step))
        losses.add(loss, run_step, learner.lr)

        every = recipe.checkpoint_every_steps
        is_due = every > 0 and (run_step + 1) % every == 0
        is_exchange = (step + 1) % _STEPS_PER_EXCHANGE[share.device.type] == 0
        is_told = share.world_size == 1 and signals.told() is not None
        if not (is_due or is_exchange or is_told or step + 1 == num_steps):
            continue
        is_worth = step + 1 == num_steps and writer is not None and deadlines.epoch_is_due(writer.seconds)
        wishes = deadlines.checkpoint_is_due or is_worth, deadlines.time_is_up
        by_clock, time_is_up, *signalled = losses.exchange(fabric, *wishes, of_any=signals.told_each())
        told = signals.first_of(signalled)
        seconds = time.monotonic() - lap
        progress = progress.advance(losses.num_steps, losses.loss_sum, seconds)
        yield Exchange(progress, checkpoint=is_due or by_clock, stop=time_is_up or told is not None, told=told)
        lap = time.monotonic()
