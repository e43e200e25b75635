"""Figures of an evaluation, with intervals, chance and counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightcrl.metrics.intervals import exact_at_ends, mean_interval

OPTIONAL = ("thresholds", "strengths", "curves")
"""Fields that are omitted from JSON if empty."""


@dataclass(frozen=True)
class Result:
    """Figures of one evaluation.

    Attributes:
        metrics: value by name; recalls and accuracies are fractions, ranks start at 1.
        interval: the two ends of the 95 % bootstrap interval, by name.
        chance: score of a random guess, for the metrics where it is known.
        counts: number of queries, items and classes.
        thresholds: thresholds calibrated on other data, by space.
        strengths: strengths of penalties chosen on other data, by space.
        curves: columns of equal length by name (such as `k`, `precision` and `recall`), by direction or space.
    """

    metrics: dict[str, float]
    interval: dict[str, tuple[float, float]] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    strengths: dict[str, float] = field(default_factory=dict)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "metrics": self.metrics,
            "interval": {name: list(ends) for name, ends in self.interval.items()},
            "chance": self.chance,
            "counts": self.counts,
            **{name: entries for name in OPTIONAL if (entries := getattr(self, name))},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        """Return the result of `to_json`'s values."""
        interval = {name: (low, high) for name, (low, high) in value["interval"].items()}
        more = {name: value[name] for name in OPTIONAL if name in value}
        return cls(value["metrics"], interval, value["chance"], value["counts"], **more)


def accuracies(hit: Mapping[str, np.ndarray], chance: Mapping[str, float], counts: Mapping[str, int]) -> Result:
    """Return mean hits with 95 % intervals over items.

    Args:
        hit: probability [N] that each item is right, by measure.
        chance: score of a random guess, by measure.
        counts: numbers of measured things.
    """
    metrics = {name: float(values.mean()) for name, values in hit.items()}
    interval = {
        name: exact_at_ends(mean_interval(values, np.arange(len(values))), metrics[name], len(values))
        for name, values in hit.items()
    }
    return Result(metrics, interval, dict(chance), dict(counts))
