"""Zero-shot classification: an item belongs to the class whose prompts are nearest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightcrl.errors import RecipeError, ShapeError
from lightcrl.metrics.intervals import hits
from lightcrl.metrics.ranks import ranks
from lightcrl.metrics.result import Result, accuracies

TOPS = (1, 2, 3, 4, 5)
"""Values k of top-k accuracy, up to the number of classes."""

# A few of CLIP's own prompts (github.com/openai/CLIP, notebooks): plain prompts, for pictures and for sounds.
TEMPLATES = {
    "image": (
        "a photo of a {}.",
        "a blurry photo of a {}.",
        "a photo of the {}.",
        "a picture of a {}.",
        "there is a {} in the picture.",
    ),
    "audio": ("the sound of a {}.", "a recording of a {}.", "this is the sound of {}.", "you can hear a {}."),
}


def prompts(classes: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Return every template filled with every class name, classes first.

    Raises:
        RecipeError: a template has no `{}`.

    >>> prompts(["dog", "cat"], ["a {}.", "the {}."])
    ['a dog.', 'the dog.', 'a cat.', 'the cat.']
    """
    for template in templates:
        if "{}" not in template:
            raise RecipeError(f"the prompt template {template!r} has no {{}} for the class name.")
    return [template.replace("{}", name) for name in classes for template in templates]


def class_vectors(embeddings: Tensor, classes: int) -> Tensor:
    """Return unit vectors [classes, d]: the mean of each class's prompts, from embeddings [classes x P, d]."""
    return normalize(embeddings.reshape(classes, -1, embeddings.shape[-1]).mean(1), dim=-1)


def label_ranks(items: Tensor, labels: np.ndarray, classes: Tensor) -> np.ndarray:
    """Return ranks [N, 3] of the right class of each item (see `ranks.ranks`); arguments as in `evaluate`.

    Raises:
        ShapeError: a label is not a class number, or there are no items.
    """
    if len(items) == 0 or len(items) != len(labels) or labels.max() >= len(classes) or labels.min() < 0:
        raise ShapeError(
            f"{len(items)} items with {len(labels)} labels for {len(classes)} classes; expected one label below the "
            "number of classes per item, and at least one item."
        )
    return ranks(items, classes, np.stack([np.arange(len(labels)), np.asarray(labels, dtype=np.int64)], 1))


def evaluate(items: Tensor, labels: np.ndarray, classes: Tensor) -> Result:
    """Return top-1 to top-5 accuracy (up to the number of classes), with ties broken at random.

    Args:
        items: unit vectors [N, d].
        labels: right class numbers [N].
        classes: unit vectors [C, d].

    Raises:
        ShapeError: a label is not a class number, or there are no items.
    """
    counts = label_ranks(items, labels, classes)
    return accuracy(np.stack([hits(counts, k) for k in TOPS[: len(classes)]]), len(classes))


def accuracy(hit: np.ndarray, classes: int) -> Result:
    """Return top-1 to top-K accuracy with 95 % intervals over items.

    Args:
        hit: probability that an item's right class is among the first k, [K, N].
        classes: number of classes.
    """
    by_measure = {f"top{k}": values for k, values in enumerate(hit, start=1)}
    chance = {f"top{k}": k / classes for k, _ in enumerate(hit, start=1)}
    return accuracies(by_measure, chance, {"items": hit.shape[1], "classes": classes})


def predict(items: Tensor, classes: Tensor) -> Tensor:
    """Return the nearest class of each item, [N]."""
    return torch.argmax(items @ classes.T, dim=1)
