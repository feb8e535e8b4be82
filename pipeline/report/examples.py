"""The hardest mistakes and the surest hits of a model, shown as what it saw: latents, decoded.

Legend: N measured images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ci2p_cache.cache import Cache
from ci2p_cache.loader import PLAIN_VIEW
from ci2p_cache.printable import printable
from ci2p_cache.reader import ViewReader
from pipeline.encode.pictures import PictureDecoder, as_jpeg
from pipeline.evaluate.predictions import Predictions
from pipeline.report.names import words_of

_BATCH = 8  # pictures decoded at once


@dataclass(frozen=True)
class Example:
    """One image of the validation split, as its latent decodes."""

    jpeg: bytes
    key: str
    label: str
    prediction: str
    probability: float
    """Of the prediction."""
    label_probability: float


@dataclass(frozen=True)
class Examples:
    """Both by the probability of the prediction, the highest first."""

    mistakes: tuple[Example, ...]
    hits: tuple[Example, ...]


def show_examples(
    cache: Cache,
    decoder: PictureDecoder,
    predictions: Predictions,
    *,
    most: int,
) -> Examples:
    """At most so many of each; of the predictions, all of the cache's samples or some."""
    probabilities_NK, labels_N, places_N = predictions.probabilities, predictions.labels, predictions.places
    sure_N, predicted_N = probabilities_NK.max(1)
    is_right_N = predicted_N == labels_N
    keys, names = cache.read_keys(), words_of(cache.classes)
    both = []
    for wanted_N in (~is_right_N, is_right_N):
        rows = torch.nonzero(wanted_N)[:, 0]
        rows = rows[sure_N[rows].argsort(descending=True, stable=True)][:most]
        jpegs = _decode(cache, places_N[rows.numpy()], decoder)
        both.append(
            tuple(
                Example(
                    jpeg=jpeg,
                    key=printable(keys[int(places_N[row])]),
                    label=names[int(labels_N[row])],
                    prediction=names[int(predicted_N[row])],
                    probability=float(sure_N[row]),
                    label_probability=float(probabilities_NK[row, labels_N[row]]),
                )
                for row, jpeg in zip(rows.tolist(), jpegs, strict=True)
            )
        )
    return Examples(*both)


def _decode(cache: Cache, places: NDArray[np.int64], decoder: PictureDecoder) -> Sequence[bytes]:
    reader = ViewReader(cache.split_dir, cache.manifest)
    positions, jpegs = cache.positions[places], []
    for begin in range(0, len(positions), _BATCH):
        batch = positions[begin : begin + _BATCH]
        latents = reader.read_latents(batch, np.full(len(batch), PLAIN_VIEW))
        jpegs += [as_jpeg(picture) for picture in decoder(latents)]
    return jpegs
