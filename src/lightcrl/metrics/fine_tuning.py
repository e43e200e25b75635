"""Fine-tuning: the accuracy of a classifier whose method, and encoder if asked for, was trained on the classes.

The figures alone; `lightcrl.tasks.fine_tuning` trains.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from lightcrl.errors import ShapeError
from lightcrl.metrics.intervals import mean_interval
from lightcrl.metrics.probe import blind, right
from lightcrl.metrics.result import Result


def evaluate(logits: Tensor, labels: np.ndarray, train_labels: np.ndarray) -> Result:
    """`top1` with its 95 % interval over items; chance is what the frequencies of train alone tell.

    Args:
        logits: [N, C].
        labels: [N] class numbers below C.
        train_labels: [M] those of the items that were trained on.

    Raises:
        ShapeError: sizes disagree, there are no items, or a label has no column.
    """
    if len(logits) != len(labels) or len(labels) == 0 or labels.max() >= logits.shape[1]:
        raise ShapeError(
            f"logits of shape {list(logits.shape)} with {len(labels)} labels up to {max(labels, default=None)}; "
            "expected a row for each label, at least one, and a column for each class."
        )
    hit = right(logits, torch.from_numpy(labels))
    return Result(
        {"top1": float(hit.mean())},
        {"top1": mean_interval(hit, np.arange(len(hit)))},
        {"top1": blind(train_labels, labels)},
        {"test": len(labels), "classes": logits.shape[1]},
    )


def summarise(hit: Mapping[str, np.ndarray], train_labels: np.ndarray, labels: np.ndarray, items: int) -> Result:
    """Return accuracies with 95 % intervals over items of test, and those by epoch as a curve.

    Args:
        hit: [N] by measure (`top1` of the best classifier, `epochN/top1`): which items are right.
        train_labels: [M] class numbers of the items that were trained on.
        labels: [N] class numbers of the items of test.
        items: number of items in train, held ones included.
    """
    chance = blind(train_labels, labels)
    metrics = {name: float(values.mean()) for name, values in hit.items()}
    by_epoch = {int(name[len("epoch") : -len("/top1")]): metrics[name] for name in hit if name.startswith("epoch")}
    return Result(
        metrics,
        {name: mean_interval(values, np.arange(len(values))) for name, values in hit.items()},
        dict.fromkeys(hit, chance),
        {
            "train": items,
            "held": items - len(train_labels),
            "test": len(labels),
            "classes": int(train_labels.max()) + 1,
        },
        curves={"test": {"epoch": [float(epoch) for epoch in by_epoch], "top1": list(by_epoch.values())}},
    )
