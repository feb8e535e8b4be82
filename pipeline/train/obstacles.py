"""Obstacles: why a recipe and its data cannot be trained, said before the first step or in place of its traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

from ci2p_cache.errors import InputError
from ci2p_cache.printable import counted
from pipeline.running.compiling import compiler_errors
from pipeline.train.data import Share, TrainingData
from pipeline.train.recipe import Recipe

_ONE_VALUE = "Expected more than 1 value per channel"  # torch's, where BatchNorm has nothing to take a variance of


def refuse_untrainable(recipe: Recipe, data: TrainingData, share: Share) -> None:
    """Raises InputError for a single class, a batch that does not divide by the processes, and graphs across them."""
    if len(data.classes) < 2:
        raise InputError(
            f"{data.path} has one class ({data.classes[0]!r}), and a model learns to tell classes apart; encode images "
            "of two or more"
        )
    if recipe.batch_size % share.world_size:
        raise InputError(
            f"batch_size = {recipe.batch_size} does not divide by {share.world_size} processes; change either"
        )
    if share.world_size > 1 and recipe.compile == "reduce-overhead":  # whose graphs would hold messages between them
        raise InputError(
            f'compile = "reduce-overhead" is for one process, and these are {share.world_size}; give --compile'
        )
    if share.world_size > 1 and data.num_train < recipe.batch_size:
        raise InputError(
            f"batch_size = {recipe.batch_size} is more than the {data.num_train} training samples, which cannot "
            "be shared evenly; lower batch_size, or use one process"
        )


@contextmanager
def step_errors(recipe: Recipe, data: TrainingData, share: Share) -> Iterator[None]:
    """One line where a step cannot be: no compiler for `compile`, or a batch of one value a channel."""
    try:
        with compiler_errors():
            yield
    except ValueError as error:
        if _ONE_VALUE not in str(error):
            raise
        images = min(recipe.batch_size, data.num_train)
        raise InputError(
            f"batch_size = {recipe.batch_size} gives BatchNorm one value a channel (of {counted(images, 'image')} over "
            f"{counted(share.world_size, 'process')}, one token each); give {2 * share.world_size} or more and as many "
            "training images, or larger images or a larger window"
        ) from error
