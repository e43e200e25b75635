"""Fine-tuning: the accuracy of a classifier whose method, and optionally encoder, was trained on the classes.

This module has only the figures; `lightcrl.tasks.fine_tuning` trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lightcrl.errors import ShapeError
from lightcrl.metrics.probe import blind, right
from lightcrl.metrics.result import Result, accuracies


def evaluate(logits: Tensor, labels: np.ndarray, train_labels: np.ndarray) -> Result:
    """Return `top1` with its 95 % interval over items; chance is the share of train's most frequent class.

    Args:
        logits: logits [N, C].
        labels: class numbers [N], below C.
        train_labels: class numbers [M] of the training items.

    Raises:
        ShapeError: sizes disagree, there are no items, or a label has no column.
    """
    if len(logits) != len(labels) or len(labels) == 0 or labels.max() >= logits.shape[1]:
        raise ShapeError(
            f"logits of shape {list(logits.shape)} with {len(labels)} labels up to {max(labels, default=None)}; "
            "expected a row for each label, at least one, and a column for each class."
        )
    hit = right(logits, torch.from_numpy(labels))
    chance = {"top1": blind(train_labels, labels)}
    return accuracies({"top1": hit}, chance, {"test": len(labels), "classes": logits.shape[1]})


def summarise(hit: Mapping[str, np.ndarray], train_labels: np.ndarray, labels: np.ndarray, items: int) -> Result:
    """Return accuracies with 95 % intervals over items of test, and those by epoch as a curve.

    Args:
        hit: [N] by measure (`top1` of the best classifier, `epochN/top1`): which items are right.
        train_labels: [M] class numbers of the items that were trained on.
        labels: [N] class numbers of the items of test.
        items: number of items in train, held ones included.
    """
    counts = {"train": items, "held": items - len(train_labels), "test": len(labels)}
    counts["classes"] = int(train_labels.max()) + 1
    result = accuracies(hit, dict.fromkeys(hit, blind(train_labels, labels)), counts)
    by_epoch = {
        float(name[len("epoch") : -len("/top1")]): result.metrics[name] for name in hit if name.startswith("epoch")
    }
    return replace(result, curves={"test": {"epoch": list(by_epoch), "top1": list(by_epoch.values())}})
