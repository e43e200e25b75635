"""Zero-shot classification: an item goes to the class whose prompts lie nearest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightcrl.errors import RecipeError, ShapeError
from lightcrl.metrics.intervals import hits, mean_interval
from lightcrl.metrics.ranks import ranks
from lightcrl.metrics.result import Result

TOPS = (1, 2, 3, 4, 5)
"""The k of top-k accuracy, as far as there are classes."""

# A few of CLIP's own prompts (github.com/openai/CLIP, notebooks): plain ones, for pictures and for sounds.
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
    """Every template filled with every class name, classes first.

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
    """Unit vectors [classes, d]: the mean over each class's prompts, from `prompts`' embeddings [classes x P, d]."""
    return normalize(embeddings.reshape(classes, -1, embeddings.shape[-1]).mean(1), dim=-1)


def label_ranks(items: Tensor, labels: np.ndarray, classes: Tensor) -> np.ndarray:
    """[N, 3] how the right class of each item fares among all (see `ranks.ranks`); arguments as in `evaluate`.

    Raises:
        ShapeError: a label is no class, or there are no items.
    """
    if len(items) == 0 or len(items) != len(labels) or labels.max() >= len(classes) or labels.min() < 0:
        raise ShapeError(
            f"{len(items)} items with {len(labels)} labels for {len(classes)} classes; expected one label below the "
            "number of classes per item, and at least one item."
        )
    return ranks(items, classes, np.stack([np.arange(len(labels)), np.asarray(labels, dtype=np.int64)], 1))


def evaluate(items: Tensor, labels: np.ndarray, classes: Tensor) -> Result:
    """Top-1 to top-5 accuracy (as far as there are classes), ties broken at random.

    Args:
        items: unit vectors [N, d].
        labels: right class numbers [N].
        classes: unit vectors [C, d].

    Raises:
        ShapeError: a label is no class, or there are no items.
    """
    counts = label_ranks(items, labels, classes)
    return accuracy(np.stack([hits(counts, k) for k in TOPS[: len(classes)]]), len(classes))


def accuracy(hit: np.ndarray, classes: int) -> Result:
    """Top-1 to top-K accuracy with 95 % intervals over items.

    Args:
        hit: [K, N] the probability that an item's right class is among the first k.
        classes: number of classes.
    """
    result = Result({}, counts={"items": hit.shape[1], "classes": classes})
    places = np.arange(hit.shape[1])
    for k, values in enumerate(hit, start=1):
        result.metrics[f"top{k}"] = float(values.mean())
        result.interval[f"top{k}"] = mean_interval(values, places)
        result.chance[f"top{k}"] = k / classes
    return result


def predict(items: Tensor, classes: Tensor) -> Tensor:
    """The nearest class of each item, [N]."""
    return torch.argmax(items @ classes.T, dim=1)
