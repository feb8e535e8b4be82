"""Starting point: a training that begins with the weights of another run (`init_from` of a recipe)."""

import logging
from dataclasses import replace
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from ci2p_cache.errors import InputError
from ci2p_cache.known_images import KnownImages
from ci2p_cache.printable import counted
from pipeline.train.run_folder import RunConfig, read_known_images
from pipeline.train.trained_model import Stored, read_stored

logger = logging.getLogger("ci2p")

_ENCODING = ("weights_sha256", "step")  # of a cache's spec: what a latent's values are


def start_from(model: nn.Module, config: RunConfig) -> None:
    """Gives a fresh model the weights of `config.recipe.init_from`, and says which part of it stays fresh.

    The head is taken over where the classes are the same, in the same order. Raises InputError for weights of another
    model or another size, naming both.
    """
    source = config.recipe.init_from
    stored = read_stored(source)
    theirs = stored.config
    if theirs.recipe.model != config.recipe.model:
        raise InputError(
            f"init_from {source} is a {theirs.recipe.model}, and the model here is {config.recipe.model}; "
            f"give --model {theirs.recipe.model}, or another run"
        )
    same_classes = theirs.data.classes == config.data.classes
    head = _head_of(model)
    weights = {name: value for name, value in stored.weights.items() if same_classes or not name.startswith(head)}
    _load(model, weights, head, stored, source)
    for field in _ENCODING:
        ours, others = config.data.spec.get(field), theirs.data.spec.get(field)
        if ours != others:
            logger.warning(
                "init_from %s was trained on latents with another %s (%s, here %s)", source, field, others, ours
            )
    which = "with its head" if same_classes else f"under a new head: {_count(theirs)} there, {_count(config)} here"
    logger.info("starts from %s, %s", stored.path, which)


def remember_ancestor(known: KnownImages, source: str) -> KnownImages:
    """What a run knows of its images, those included that the weights it starts from have seen (promise C7).

    Warns where they have seen images that the new run holds out. A run that starts afresh has no `source`.
    """
    if not source:
        return known
    theirs = read_known_images(source)
    if theirs is None or theirs.by != known.by:
        logger.warning("init_from %s: whether it has seen the images held out here is not known", source)
        return known
    seen = int(np.isin(known.held_out.ids, theirs.trained).sum())
    if seen:
        logger.warning(
            "init_from %s was trained on %d of %s held out here: accuracies on them say too much",
            *(source, seen, counted(len(known.held_out.ids), "image")),
        )
    return replace(known, trained=np.union1d(known.trained, theirs.trained))


def _head_of(model: nn.Module) -> str:
    """How the names of the classifier's weights begin."""
    classifier = cast(Any, model).get_classifier()
    return next(f"{name}." for name, module in model.named_modules() if module is classifier)


def _load(model: nn.Module, weights: dict[str, Tensor], head: str, stored: Stored, source: str) -> None:
    expected = model.state_dict()
    for name, value in weights.items():
        if name not in expected or expected[name].shape != value.shape:
            here = "nothing" if name not in expected else str(list(expected[name].shape))
            raise InputError(
                f"init_from {source}: its {name} is {list(value.shape)} and here {here}; give a cache of what it was "
                f"trained on in size, {list(stored.config.data.input_shape)}"
            )
    missing = sorted(name for name in expected.keys() - weights.keys() if not name.startswith(head))
    if missing:
        raise InputError(f"init_from {source} has no {missing[0]}; give another run")
    model.load_state_dict(weights, strict=False)


def _count(config: RunConfig) -> str:
    return counted(len(config.data.classes), "class")
