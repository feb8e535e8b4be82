"""Linear probe: logistic regression on what the cached integers say of an image by themselves, without a network.

    features [N,384] = mean and mean magnitude of each of the 192 channels over the grid, of the plain view

What a linear classifier reads from them says how much of the class an encoder has laid open already. Deterministic:
full-batch L-BFGS in float64 from zero weights, features standardised by the training split, an L2 penalty that is
chosen on every fifth training image and never on a validation image.
"""

# N images, C latent channels (192), H=W latent grid, F features (384), K classes

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ci2p_cache.cache import Cache, open_cache
from ci2p_cache.loader import PLAIN_VIEW, BatchLoader

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_MOST_STEPS = 300
_HELD_OUT = 5


def probe(cache: Path) -> float:
    """Validation top-1, in percent, of a probe on a cache's training split."""
    (train_NF, train_N), (val_NF, val_N) = (features(open_cache(cache, split)) for split in ("train", "val"))
    scale = train_NF.std(0).clamp_min(1e-9)
    mean = train_NF.mean(0)
    train_NF, val_NF = (train_NF - mean) / scale, (val_NF - mean) / scale
    num_classes = int(train_N.max()) + 1
    held_out = torch.arange(len(train_N)) % _HELD_OUT == _HELD_OUT - 1
    best = max(
        PENALTIES,
        key=lambda penalty: top1(
            fit(train_NF[~held_out], train_N[~held_out], num_classes, penalty), train_NF[held_out], train_N[held_out]
        ),
    )
    return 100 * top1(fit(train_NF, train_N, num_classes, best), val_NF, val_N)


def features(cache: Cache) -> tuple[Tensor, Tensor]:
    """float64 [N,F] and labels [N] of a split, in its order."""
    loader = BatchLoader(cache, batch_size=256, shuffle=False, resident="off", view=PLAIN_VIEW)
    rows, labels = [], []
    for batch in loader.epoch(0):
        latents_BCHW = batch.latents.double()
        rows.append(torch.cat([latents_BCHW.mean((2, 3)), latents_BCHW.abs().mean((2, 3))], dim=1))
        labels.append(batch.labels)
    return torch.cat(rows), torch.cat(labels)


def fit(features_NF: Tensor, labels_N: Tensor, num_classes: int, penalty: float) -> Tensor:
    """Weights and, in the last row, biases [F + 1, K] of the least cross entropy + penalty x squared weights."""
    weights = torch.zeros(features_NF.shape[1] + 1, num_classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=_MOST_STEPS, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = cross_entropy(logits(weights, features_NF), labels_N) + penalty * weights[:-1].square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[arg-type]
    return weights.detach()


def logits(weights: Tensor, features_NF: Tensor) -> Tensor:
    return features_NF @ weights[:-1] + weights[-1]


def top1(weights: Tensor, features_NF: Tensor, labels_N: Tensor) -> float:
    """Share of the images, in [0, 1], whose class is the likeliest."""
    return float((logits(weights, features_NF).argmax(1) == labels_N).double().mean())
