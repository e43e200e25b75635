"""What came out of a comparison: figures with intervals, paired differences, and what they say in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl import __version__
from lightcrl.metrics.curve import Forecast
from lightcrl.metrics.retrieval import KS
from lightcrl.metrics.similarity import CORRELATIONS
from lightcrl.metrics.statistics import SAMPLES, Difference, Draws, Estimate, difference, estimate
from lightcrl.metrics.statistics import draws as draw
from lightcrl.pipeline import RETRIEVAL
from lightcrl.recipe import Recipe
from lightcrl.studies.cells import Cell, mean_recall, measure_name
from lightcrl.studies.judge import judge
from lightcrl.tasks.base import Task

FORMAT = 1
MAIN = "mean_recall@1"


@dataclass(frozen=True)
class Try:
    """One set of options that was tried on dev.

    Attributes:
        options: of the method's grid.
        dev: mean R@1 on dev; None where the training failed.
        failed: why.
        folder: of its cell.
    """

    options: Mapping[str, Any]
    dev: float | None
    failed: str = ""
    folder: str = ""


@dataclass(frozen=True)
class Contestant:
    """One method of a comparison.

    Attributes:
        label: what it is called here.
        method: its name in `METHODS`.
        options: all of them, as chosen.
        tries: what was tried on dev, in order.
        chosen: place of the try that was taken.
        cells: trainings on all groups, by seed.
        figures: by measure.
        rivals: by headline measure (`mean_recall@1`, `zero_shot/top1`, ...), the best other method and the difference
            to it.
        failed: why there are no cells.
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
        """Of training, mean over seeds."""
        return float(np.mean([cell.seconds for cell in self.cells]))

    @property
    def memory(self) -> int | None:
        """Peak in bytes, the largest over seeds."""
        known = [cell.memory for cell in self.cells if cell.memory is not None]
        return max(known, default=None)


@dataclass(frozen=True)
class Growth:
    """One method on nested subsets of the training groups.

    Attributes:
        label: of the method.
        sizes: [N] numbers of groups, ascending.
        recall: [S, N] mean R@1 by seed.
        forecast: what the fitted curve says of the target; None with too few sizes.
    """

    label: str
    sizes: np.ndarray
    recall: np.ndarray
    forecast: Forecast | None


@dataclass(frozen=True)
class Comparison:
    """A comparison, or as much of it as is done.

    Attributes:
        folder: where it lies.
        recipe: what was compared on.
        seeds: all of them.
        tuned: whether every method tried its grid.
        contestants: best mean R@1 first, failed ones last.
        differences: in mean R@1, by pair of labels, the better first.
        chance: by measure, what a blind guess scores.
        queries: number of queries by direction of retrieval.
        headlines: measures that stand for the further tasks, such as `zero_shot/top1`.
        growth: by method, where it was asked for.
        finished: all cells are done.
    """

    folder: Path
    recipe: Recipe
    seeds: tuple[int, ...]
    tuned: bool
    contestants: tuple[Contestant, ...]
    differences: Mapping[tuple[str, str], Difference]
    chance: Mapping[str, float]
    queries: Mapping[str, int]
    headlines: tuple[str, ...] = ()
    growth: tuple[Growth, ...] = ()
    finished: bool = False

    @property
    def ranked(self) -> tuple[Contestant, ...]:
        """Those with figures."""
        return tuple(one for one in self.contestants if one.cells)

    @property
    def directions(self) -> tuple[str, ...]:
        """Such as `("image_to_text", "text_to_image")`."""
        return tuple(self.queries)

    @property
    def versus(self) -> tuple[str, ...]:
        """Measures in which every method is held against the best other one."""
        return (MAIN, *self.headlines)

    @property
    def measures(self) -> tuple[str, ...]:
        """What tables show: with two modalities each direction, with more the means over directions."""
        each = [f"{name}/recall@{k}" for name in self.directions for k in KS] if len(self.directions) == 2 else []
        means = [f"mean_recall@{k}" for k in (KS[1:] if not each else ())]
        return (MAIN, *means, *each, *self.headlines)

    def to_json(self) -> dict[str, Any]:
        """What compare.json holds."""
        return {
            "format": FORMAT,
            "lightcrl": __version__,
            "recipe": self.recipe.name,
            "split": self.recipe.evaluation.split,
            "chosen_on": "dev",
            "finished": self.finished,
            "seeds": list(self.seeds),
            "tuned": self.tuned,
            "queries": dict(self.queries),
            "chance": dict(self.chance),
            "methods": [_contestant(one) for one in self.contestants],
            "differences": [
                {"better": pair[0], "other": pair[1], **_difference(found)} for pair, found in self.differences.items()
            ],
            "words": sentences(self),
            "scaling": [_growth(one) for one in self.growth],
        }


def judged(
    tasks: Mapping[str, Task], cells: Mapping[str, Sequence[Cell]]
) -> tuple[dict[str, dict[str, Estimate]], dict[str, dict[str, Draws]]]:
    """Return figures with intervals by label and measure, and the draws that they come from.

    Args:
        tasks: prepared tasks by label.
        cells: by label, one or more each, all measured on the same units.
    """
    by_label: dict[str, dict[str, Draws]] = {label: {} for label in cells}
    for name, task in tasks.items() if cells else ():
        outcomes = {label: [cell.outcomes[name] for cell in by_seed] for label, by_seed in cells.items()}
        for label, spaces in judge(task, outcomes, SAMPLES).items():
            for space, measures in spaces.items():
                by_label[label] |= {measure_name(name, space, each): draws for each, draws in measures.items()}
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
    """Return, by measure, the best other method and the difference to it."""
    rival = {}
    for measure in measures:
        others = {other: known[measure] for other, known in draws.items() if other != label and measure in known}
        if others and measure in draws[label]:
            best = max(others, key=lambda other: others[other].mean)
            rival[measure] = best, difference(draws[label][measure], others[best])
    return rival


def pairs(found: Mapping[str, Mapping[str, Draws]]) -> dict[tuple[str, str], Difference]:
    """Differences in mean R@1 of all pairs, the better first, best pairs first."""
    order = sorted(found, key=lambda label: -found[label][MAIN].mean)
    return {
        (one, other): difference(found[one][MAIN], found[other][MAIN])
        for at, one in enumerate(order)
        for other in order[at + 1 :]
    }


def sentences(comparison: Comparison) -> list[str]:
    """What the differences in mean R@1 say: whom the first method beats, and who is not told apart."""
    ranked = comparison.ranked
    if len(ranked) < 2:
        return []
    first = ranked[0]
    low, high = first.figures[MAIN].both
    said = [f"{first.label} has the highest mean R@1, {_points(first.figures[MAIN].mean)} % ({_range(low, high)})."]
    beaten, equal = [], []
    for other in ranked[1:]:
        found = comparison.differences[first.label, other.label]
        if found.word == "better":
            beaten.append(f"{_points(found.mean)} points above {other.label} ({_range(*found.interval)})")
        else:
            equal.append(f"{other.label} ({_points(found.mean)} points apart, {_range(*found.interval)})")
    if beaten:
        said.append(f"It is {_join(beaten)}.")
    if equal:
        said.append(f"It is not told apart from {_join(equal)}.")
    alike = [
        f"{one} and {other}"
        for (one, other), found in comparison.differences.items()
        if one != first.label and found.word == "not significant"
    ]
    if alike:
        said.append(f"Not told apart either: {'; '.join(alike)}.")
    return said


def remarks(comparison: Comparison) -> list[str]:
    """What a reader of the figures has to know."""
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
    said += [f"{one.label} failed: {one.failed}" for one in comparison.contestants if one.failed]
    if not comparison.finished:
        said.append("The comparison is not finished; the same command goes on with it.")
    return said


def _contestant(one: Contestant) -> dict[str, Any]:
    return {
        "label": one.label,
        "method": one.method,
        "options": dict(one.options),
        "failed": one.failed or None,
        "tries": [
            {"options": dict(tried.options), "dev_mean_recall@1": tried.dev, "failed": tried.failed or None}
            | {"folder": tried.folder or None, "chosen": at == one.chosen}
            for at, tried in enumerate(one.tries)
        ],
        "parameters": one.cells[0].parameters if one.cells else None,
        "seconds": round(one.seconds, 3) if one.cells else None,
        "memory": one.memory,
        "figures": {
            name: {"mean": found.mean, "seeds": found.seeds and list(found.seeds)}
            | {"items": list(found.items), "both": list(found.both)}
            for name, found in one.figures.items()
        },
        "rivals": {name: {"label": label, **_difference(found)} for name, (label, found) in one.rivals.items()},
        "cells": [cell.to_json() for cell in one.cells],
    }


def _difference(found: Difference) -> dict[str, Any]:
    return {"difference": found.mean, "interval": list(found.interval), "word": found.word}


def _growth(one: Growth) -> dict[str, Any]:
    said = one.forecast
    return {
        "label": one.label,
        "groups": one.sizes.tolist(),
        "mean_recall@1": one.recall.tolist(),
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
    """JSON has no infinity."""
    return value if np.isfinite(value) else None


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _range(low: float, high: float) -> str:
    return f"{_points(low)} to {_points(high)}"


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
