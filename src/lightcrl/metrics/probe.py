"""Linear probe: the accuracy of a linear classifier on frozen vectors.

The probe is a single linear map: multinomial logistic regression with an L2 penalty, fitted to convergence by L-BFGS in
float64. Its strength is chosen by log loss on a held-out part of train (the accuracy of a small part jumps and ties),
then it is fitted on all of train; test is not used. This is CLIP's protocol (arXiv 2103.00020, appendix A.3).

The module also has the protocol of LightCRL's paper (arXiv 2403.04650): the accuracy of the same map trained by AdamW,
after 20, 40, 60, 80 and 100 epochs.

Every space is centred and scaled as a whole by train, so that one grid of strengths suits all; no direction of a space
is stretched relative to another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightcrl.errors import DataError, ShapeError
from lightcrl.metrics.result import Result, accuracies

STRENGTHS = tuple(float(10**power) for power in np.arange(1, -6.5, -0.5))
"""The grid of strengths, strongest first; each fit starts from the previous one."""

PATIENCE = 3
"""Number of consecutive strengths without a lower held-out loss after which weaker ones are not tried."""

HELD = 0.2
"""Share of each class of train that is held out for the choice of the strength."""

EPOCHS = (20, 40, 60, 80, 100)
BATCH, RATE, DECAY = 64, 1e-3, 1e-3
"""The paper's protocol: its batch size, learning rate and weight decay."""

TIE = 1e-6
"""Scores within this distance are equal, as in `metrics`."""


def hold_out(labels: np.ndarray, share: float = HELD, seed: int = 0) -> np.ndarray:
    """Return a mask [N] of a random `share` of each class of `labels` [N], at least one item and not all.

    Raises:
        DataError: a class has fewer than two items.
    """
    held = np.zeros(len(labels), dtype=bool)
    generator = np.random.default_rng(seed)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise DataError(
                f"class {label} has {len(members)} item in train; expected at least two: one to fit, one held for the "
                "choice of the strength."
            )
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held[generator.permutation(members)[:count]] = True
    return held


def fit(vectors: Tensor, labels: Tensor, classes: int, strength: float, start: Tensor | None = None) -> Tensor:
    """Return weights [D + 1, C] of logistic regression, the last row the biases, in float64.

    They minimise the mean cross-entropy plus `strength` / 2 times the squared norm of all weights except the biases.

    Args:
        vectors: vectors [N, D] in float64.
        labels: class numbers [N], below C.
        classes: C.
        strength: strength of the penalty.
        start: initial weights; zeros by default.
    """
    weights = torch.zeros(vectors.shape[1] + 1, classes, dtype=torch.float64) if start is None else start.clone()
    weights.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=1000, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = cross_entropy(scores(vectors, weights), labels) + strength / 2 * weights[:-1].square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()


def scores(vectors: Tensor, weights: Tensor) -> Tensor:
    """Return scores [N, C] of vectors [N, D] under weights [D + 1, C], the last row the biases."""
    return vectors @ weights[:-1] + weights[-1]


def choose_strength(vectors: Tensor, labels: Tensor, classes: int, seed: int = 0) -> float:
    """Return the strength among `STRENGTHS` with the least log loss on a held-out part of train; see `fit`.

    Raises:
        DataError: a class has fewer than two items.
    """
    held = torch.from_numpy(hold_out(labels.numpy(), seed=seed))
    best, least, since = STRENGTHS[0], np.inf, 0
    weights = None
    for strength in STRENGTHS:
        weights = fit(vectors[~held], labels[~held], classes, strength, weights)
        loss = float(cross_entropy(scores(vectors[held], weights), labels[held]))
        best, least, since = (strength, loss, 0) if loss < least else (best, least, since + 1)
        if since == PATIENCE:
            break
    return best


def trained(
    vectors: Tensor, labels: Tensor, classes: int, epochs: Sequence[int] = EPOCHS, seed: int = 0
) -> Iterator[tuple[int, Tensor]]:
    """Train the linear map by AdamW with a constant rate; yield each number of `epochs` and the weights [D + 1, C].

    Args:
        vectors: vectors [N, D] in float32.
        labels: class numbers [N], below C.
        classes: C.
        epochs: numbers of epochs to report, ascending.
        seed: seed of the order of items; weights start at zero.
    """
    weights = torch.zeros(vectors.shape[1] + 1, classes, requires_grad=True)
    optimizer = torch.optim.AdamW([weights], lr=RATE, weight_decay=DECAY)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(1, max(epochs) + 1):
        for batch in torch.split(torch.randperm(len(vectors), generator=generator), BATCH):
            optimizer.zero_grad()
            cross_entropy(scores(vectors[batch], weights), labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if epoch in epochs:
            yield epoch, weights.detach().clone()


def centred(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Return train [N, D] and test [M, D] in float64, centred and scaled as a whole by train."""
    mean = train.double().mean(0)
    scale = (train.double() - mean).square().mean().sqrt().clamp(min=1e-12)
    return (train.double() - mean) / scale, (test.double() - mean) / scale


def by_epoch(
    train: Tensor, goal: Tensor, test: Tensor, wanted: Tensor, epochs: Sequence[int] = EPOCHS, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return `epochN/top1` of the paper's protocol: the correctness [M] of items of test; inputs as from `centred`.

    Args:
        train: vectors [N, D].
        goal: class numbers [N].
        test: vectors [M, D].
        wanted: class numbers [M].
        epochs: numbers of epochs to report, ascending, at least one.
        seed: seed of the order of items.
    """
    maps = trained(train.float(), goal, int(goal.max()) + 1, epochs, seed)
    return {f"epoch{epoch}/top1": right(scores(test.float(), weights), wanted) for epoch, weights in maps}


def right(logits: Tensor, labels: Tensor) -> np.ndarray:
    """Return the probability [N] that the highest score [N, C] is that of the label [N], with ties broken at random."""
    top = logits >= logits.max(1, keepdim=True).values - TIE
    hit: np.ndarray = (top.gather(1, labels[:, None])[:, 0].double() / top.sum(1)).numpy()
    return hit


def blind(train_labels: np.ndarray, test_labels: np.ndarray) -> float:
    """Return the accuracy on test labels [M] of guessing among the most frequent classes of train [N].

    >>> blind(np.array([0, 0, 1]), np.array([0, 1, 1, 1]))
    0.25
    """
    counts = np.bincount(train_labels, minlength=int(test_labels.max()) + 1)
    most = counts[test_labels] == counts.max()
    return float(most.mean() / (counts == counts.max()).sum())


def evaluate(
    train: Mapping[str, Tensor],
    train_labels: np.ndarray,
    test: Mapping[str, Tensor],
    test_labels: np.ndarray,
    *,
    epochs: Sequence[int] = EPOCHS,
    seed: int = 0,
) -> Result:
    """Return the accuracy on test, with 95 % intervals over items, of probes fitted on train in each of several spaces.

    Keys are `space/top1` of logistic regression and `space/epochN/top1` of the paper's protocol. Chance is the share in
    test of train's most frequent class.

    Args:
        train: vectors [N, D] by space.
        train_labels: class numbers [N]; every class from 0 to the greatest has items.
        test: vectors [M, D] by space.
        test_labels: class numbers [M], all of them in train.
        epochs: numbers of epochs of the paper's protocol; none omits it.
        seed: seed of the held-out part and of the order of items.

    Raises:
        ShapeError: sizes disagree, there are no items, or test has a class that train has not.
        DataError: train has one class only, or a class of fewer than two items.
    """
    hit: dict[str, dict[str, np.ndarray]] = {}
    strengths: dict[str, float] = {}
    for space, given in train.items():
        try:
            hit[space], strength = measure(given, train_labels, test[space], test_labels, epochs=epochs, seed=seed)
        except ShapeError as error:
            raise ShapeError(f"{space}: {error}") from None
        strengths |= {} if strength is None else {space: strength}
    return summarise(hit, train_labels, test_labels, strengths, seed)


def measure(
    train: Tensor,
    train_labels: np.ndarray,
    test: Tensor,
    test_labels: np.ndarray,
    *,
    epochs: Sequence[int] = EPOCHS,
    logistic: bool = True,
    seed: int = 0,
) -> tuple[dict[str, np.ndarray], float | None]:
    """Fit probes in one space: [M] by measure, which items of test are right, and the strength that was chosen.

    Arguments and errors are as in `evaluate`; the measures are `top1`, if `logistic`, and `epochN/top1`.
    """
    if len(train) != len(train_labels) or len(test) != len(test_labels) or len(test_labels) == 0:
        raise ShapeError(
            f"{len(train)} and {len(test)} vectors with {len(train_labels)} and {len(test_labels)} labels of train "
            "and test; expected one label each, and at least one item."
        )
    counts = np.bincount(train_labels)
    if max(test_labels) >= len(counts) or not counts.all():
        raise ShapeError(f"classes up to {max(test_labels)} in test, {counts.tolist()} items by class in train.")
    if len(counts) < 2:
        raise DataError(f"all {len(train_labels)} items of train are of one class; expected at least two classes.")
    goal, wanted = torch.from_numpy(train_labels), torch.from_numpy(test_labels)
    vectors, unseen = centred(train, test)
    hit, strength = {}, None
    if logistic:
        strength = choose_strength(vectors, goal, len(counts), seed)
        hit["top1"] = right(scores(unseen, fit(vectors, goal, len(counts), strength)), wanted)
    if epochs:
        hit |= by_epoch(vectors, goal, unseen, wanted, epochs, seed)
    return hit, strength


def summarise(
    hit: Mapping[str, Mapping[str, np.ndarray]],
    train_labels: np.ndarray,
    test_labels: np.ndarray,
    strengths: Mapping[str, float],
    seed: int = 0,
) -> Result:
    """Return accuracies with 95 % intervals over items of test, from what `measure` gave for each space."""
    chance = blind(train_labels, test_labels)
    held = int(hold_out(train_labels, seed=seed).sum())
    counts = {"train": len(train_labels), "held": held, "test": len(test_labels)}
    counts["classes"] = int(train_labels.max()) + 1
    named = {f"{space}/{name}": values for space, measures in hit.items() for name, values in measures.items()}
    return replace(accuracies(named, dict.fromkeys(named, chance), counts), strengths=dict(strengths))
