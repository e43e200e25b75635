"""Figures of one evaluation, with intervals, chance and counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OPTIONAL = ("thresholds", "strengths", "curves")
"""What stands in JSON only where there is some."""


@dataclass(frozen=True)
class Result:
    """Figures of one evaluation.

    Attributes:
        metrics: name to value; recalls and accuracies are fractions, ranks start at 1.
        interval: name to the two ends of its 95 % bootstrap interval.
        chance: what a blind guess scores, for those metrics where that is known.
        counts: what was evaluated: queries, items, classes.
        thresholds: those calibrated on other data, by what they belong to.
        strengths: of penalties chosen on other data, by what they belong to.
        curves: by what they belong to, columns of equal length by name, such as `k`, `precision` and `recall`.
    """

    metrics: dict[str, float]
    interval: dict[str, tuple[float, float]] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    strengths: dict[str, float] = field(default_factory=dict)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "metrics": self.metrics,
            "interval": {name: list(ends) for name, ends in self.interval.items()},
            "chance": self.chance,
            "counts": self.counts,
            **{name: found for name in OPTIONAL if (found := getattr(self, name))},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        """The inverse of `to_json`."""
        interval = {name: (low, high) for name, (low, high) in value["interval"].items()}
        more = {name: value[name] for name in OPTIONAL if name in value}
        return cls(value["metrics"], interval, value["chance"], value["counts"], **more)
