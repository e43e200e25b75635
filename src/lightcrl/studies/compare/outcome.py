"""The outcome of a comparison: figures with intervals, paired differences, and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl import __version__
from lightcrl.metrics.curve import Forecast
from lightcrl.metrics.retrieval import KS
from lightcrl.metrics.similarity import CORRELATIONS
from lightcrl.metrics.statistics import SAMPLES, Difference, Draws, Estimate, difference, estimate
from lightcrl.metrics.statistics import draws as draw
from lightcrl.studies.cells import Cell, compared, mean_recall, measure_name
from lightcrl.studies.compare.arena import Subject
from lightcrl.studies.judge import judge
from lightcrl.tasks.base import Task
from lightcrl.tasks.spec import RETRIEVAL

FORMAT = 1
MAIN = "mean_recall@1"


@dataclass(frozen=True)
class Try:
    """A set of options that was tried on dev.

    Attributes:
        options: options of the method's grid.
        dev: mean R@1 on dev; None if the training failed.
        failed: reason of the failure.
        folder: folder of its cell.
    """

    options: Mapping[str, Any]
    dev: float | None
    failed: str = ""
    folder: str = ""


@dataclass(frozen=True)
class Contestant:
    """A method of a comparison.

    Attributes:
        label: name in the comparison.
        method: name in `METHODS`.
        options: all options, as chosen.
        tries: tries on dev, in order.
        chosen: place of the chosen try.
        cells: trainings on all groups, by seed.
        figures: figures by measure.
        rivals: the best other method and the difference from it, by headline measure (`mean_recall@1`,
            `zero_shot/top1`, ...).
        failed: reason for the lack of cells.
    """

    label: str
    method: str
    options: Mapping[str, Any]
    tries: tuple[Try, ...]
    chosen: int
    cells: tuple[Cell, ...]
    figures: Mapping[str, Estimate]
    rivals: Mapping[str, tuple[str, Difference]]
    failed: str = ""

    @property
    def seconds(self) -> float:
        """Duration of training, mean over seeds."""
        return float(np.mean([cell.seconds for cell in self.cells]))

    @property
    def memory(self) -> int | None:
        """Peak memory in bytes, the largest over seeds."""
        peaks = [cell.memory for cell in self.cells if cell.memory is not None]
        return max(peaks, default=None)


@dataclass(frozen=True)
class Growth:
    """A method on nested subsets of the training groups.

    Attributes:
        label: label of the method.
        sizes: numbers of groups, ascending, [N].
        recall: mean R@1 by seed, [S, N].
        forecast: forecast of the fitted curve for the target; None with too few sizes.
        gaps: mean R@1 of the first entry minus this one's, by size; empty for the first entry itself.
    """

    label: str
    sizes: np.ndarray
    recall: np.ndarray
    forecast: Forecast | None
    gaps: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A comparison, finished or in progress.

    Attributes:
        folder: folder of the comparison.
        recipe: data, encoders, training and evaluation of all methods.
        seeds: all seeds.
        tuned: true if every method tried its grid.
        contestants: methods, best mean R@1 first, failed methods last.
        differences: differences in mean R@1 by pair of labels, the better first.
        chance: score of a random guess, by measure.
        queries: number of queries by direction of retrieval.
        headlines: headline measures of the further tasks, such as `zero_shot/top1`.
        units: number of units by further task.
        growth: recall by number of groups, by method, if requested.
        finished: true if all cells are finished.
    """

    folder: Path
    recipe: Subject
    seeds: tuple[int, ...]
    tuned: bool
    contestants: tuple[Contestant, ...]
    differences: Mapping[tuple[str, str], Difference]
    chance: Mapping[str, float]
    queries: Mapping[str, int]
    headlines: tuple[str, ...] = ()
    units: Mapping[str, int] = field(default_factory=dict)
    growth: tuple[Growth, ...] = ()
    finished: bool = False

    @property
    def ranked(self) -> tuple[Contestant, ...]:
        """The contestants with figures."""
        return tuple(contestant for contestant in self.contestants if contestant.cells)

    @property
    def directions(self) -> tuple[str, ...]:
        """Directions, such as `("image_to_text", "text_to_image")`."""
        return tuple(self.queries)

    @property
    def versus(self) -> tuple[str, ...]:
        """Measures in which every method is compared with the best other method."""
        return (MAIN, *self.headlines)

    @property
    def measures(self) -> tuple[str, ...]:
        """Measures in tables: each direction for two modalities, means over directions for more."""
        each = [f"{name}/recall@{k}" for name in self.directions for k in KS] if len(self.directions) == 2 else []
        means = [f"mean_recall@{k}" for k in (KS[1:] if not each else ())]
        return (MAIN, *means, *each, *self.headlines)

    def to_json(self) -> dict[str, Any]:
        """Return the content of compare.json."""
        return {
            "format": FORMAT,
            "lightcrl": __version__,
            "recipe": self.recipe.name,
            "split": self.recipe.evaluation.split,
            "chosen_on": "dev",
            "finished": self.finished,
            "seeds": list(self.seeds),
            "tuned": self.tuned,
            "queries": {**self.queries, **self.units},
            "chance": dict(self.chance),
            "methods": [_contestant(contestant) for contestant in self.contestants],
            "differences": [
                {"better": pair[0], "other": pair[1], **_difference(difference)}
                for pair, difference in self.differences.items()
            ],
            "words": sentences(self),
            "scaling": [_growth(contestant) for contestant in self.growth],
        }


def judged(
    tasks: Mapping[str, Task], cells: Mapping[str, Sequence[Cell]]
) -> tuple[dict[str, dict[str, Estimate]], dict[str, dict[str, Draws]]]:
    """Return figures with intervals by label and measure, and the draws that they come from.

    Args:
        tasks: prepared tasks by label.
        cells: one or more cells by label, all measured on the same units.
    """
    by_label: dict[str, dict[str, Draws]] = {label: {} for label in cells}
    for name, task in tasks.items() if cells else ():
        outcomes = {label: [cell.outcomes[name] for cell in by_seed] for label, by_seed in cells.items()}
        for label, spaces in judge(task, outcomes, SAMPLES).items():
            for space, measure in compared(name, task):
                by_label[label][measure_name(name, space, measure)] = spaces[space][measure]
    for number, label in enumerate(by_label):
        items = mean_recall({name: draws.items for name, draws in by_label[label].items()}, tasks[RETRIEVAL])
        for measure, column in items.items():
            values = np.array([cell.figures[measure] for cell in cells[label]])
            by_label[label][measure] = draw(values, column, number)
    estimates = {
        label: {name: estimate(draws, least(name)) for name, draws in measures.items()}
        for label, measures in by_label.items()
    }
    return estimates, by_label


def least(measure: str) -> float:
    """Return the least value of a measure: that of correlations is -1.

    >>> least("pairs/aligned text-text/spearman"), least("mean_recall@1")
    (-1.0, 0.0)
    """
    return -1.0 if measure.rpartition("/")[2] in CORRELATIONS else 0.0


def rivals(
    draws: Mapping[str, Mapping[str, Draws]], label: str, measures: Sequence[str]
) -> dict[str, tuple[str, Difference]]:
    """Return the best other method and the difference from it, by measure."""
    rival = {}
    for measure in measures:
        others = {
            other: by_measure[measure]
            for other, by_measure in draws.items()
            if other != label and measure in by_measure
        }
        if others and measure in draws[label]:
            best = max(others, key=lambda other: others[other].mean)
            rival[measure] = best, difference(draws[label][measure], others[best])
    return rival


def pairs(draws: Mapping[str, Mapping[str, Draws]]) -> dict[tuple[str, str], Difference]:
    """Return differences in mean R@1 of all pairs, the better first, best pairs first."""
    order = sorted(draws, key=lambda label: -draws[label][MAIN].mean)
    return {
        (better, other): difference(draws[better][MAIN], draws[other][MAIN])
        for at, better in enumerate(order)
        for other in order[at + 1 :]
    }


def sentences(comparison: Comparison) -> list[str]:
    """Return sentences on the differences in mean R@1: significant and not significant ones."""
    ranked = comparison.ranked
    if len(ranked) < 2:
        return []
    first = ranked[0]
    low, high = first.figures[MAIN].both
    said = [f"{first.label} has the highest mean R@1, {_points(first.figures[MAIN].mean)} % ({_range(low, high)})."]
    beaten, equal = [], []
    for other in ranked[1:]:
        gap = comparison.differences[first.label, other.label]
        if gap.word == "better":
            beaten.append(f"{_points(gap.mean)} points above {other.label} ({_range(*gap.interval)})")
        else:
            equal.append(f"{other.label} ({_points(gap.mean)} points apart, {_range(*gap.interval)})")
    if beaten:
        said.append(f"It is {_join(beaten)}.")
    if equal:
        said.append(f"There is no significant difference from {_join(equal)}.")
    alike = [
        f"{left} and {other}"
        for (left, other), gap in comparison.differences.items()
        if left != first.label and gap.word == "not significant"
    ]
    if alike:
        said.append(f"No significant difference either: {'; '.join(alike)}.")
    return said


def remarks(comparison: Comparison) -> list[str]:
    """Return remarks that a reader of the figures needs."""
    split, seeds = comparison.recipe.evaluation.split, len(comparison.seeds)
    said = []
    if split == "dev":
        chosen = "every checkpoint and every method's options" if comparison.tuned else "every checkpoint"
        said.append(f"These figures are on dev, the split that chose {chosen}: all of them are optimistic.")
    else:
        said.append(f"Checkpoints and options were chosen on dev; the figures are on {split}.")
    if seeds == 1:
        said.append("One seed: intervals over seeds need two, so those shown are over groups alone (bootstrap).")
    else:
        said.append(
            f"Intervals are 95 %, over groups (bootstrap) and {seeds} seeds (Student's t) together; differences are "
            "paired by groups, each interval that of one comparison."
        )
    said += [f"{member.label} failed: {member.failed}" for member in comparison.contestants if member.failed]
    if not comparison.finished:
        said.append("The comparison is not finished; the same command resumes it.")
    return said


def _contestant(member: Contestant) -> dict[str, Any]:
    return {
        "label": member.label,
        "method": member.method,
        "options": dict(member.options),
        "failed": member.failed or None,
        "tries": [
            {"options": dict(tried.options), "dev_mean_recall@1": tried.dev, "failed": tried.failed or None}
            | {"folder": tried.folder or None, "chosen": at == member.chosen}
            for at, tried in enumerate(member.tries)
        ],
        "parameters": member.cells[0].parameters if member.cells else None,
        "seconds": round(member.seconds, 3) if member.cells else None,
        "memory": member.memory,
        "figures": {
            name: {"mean": figure.mean, "seeds": figure.seeds and list(figure.seeds)}
            | {"items": list(figure.items), "both": list(figure.both)}
            for name, figure in member.figures.items()
        },
        "rivals": {name: {"label": label, **_difference(figure)} for name, (label, figure) in member.rivals.items()},
        "cells": [cell.to_json() for cell in member.cells],
    }


def _difference(gap: Difference) -> dict[str, Any]:
    return {"difference": gap.mean, "interval": list(gap.interval), "word": gap.word}


def _growth(growth: Growth) -> dict[str, Any]:
    said = growth.forecast
    return {
        "label": growth.label,
        "groups": growth.sizes.tolist(),
        "mean_recall@1": growth.recall.tolist(),
        "first_minus_this": [_difference(gap) for gap in growth.gaps],
        "forecast": None
        if said is None
        else {
            "target": said.target,
            "groups": _finite(said.needed),
            "interval": [_finite(end) for end in said.interval],
            "words": said.words,
            "curve": vars(said.curve),
            "error": said.error,
            "missed": said.missed,
        },
    }


def _finite(value: float) -> float | None:
    """Return None for infinity, which JSON lacks."""
    return value if np.isfinite(value) else None


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _range(low: float, high: float) -> str:
    return f"{_points(low)} to {_points(high)}"


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
