"""Figures and their draws from outcomes of several models and seeds, with the same units drawn for all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from lightcrl.metrics.intervals import group_weights
from lightcrl.metrics.statistics import Draws, draws
from lightcrl.tasks.base import Outcome, Task

SAMPLES = 2000

Judged = Mapping[str, Mapping[str, Mapping[str, Draws]]]
"""Draws by label, space and measure; the frozen-encoder baseline has the label `"raw"`."""


def judge(task: Task, outcomes: Mapping[str, Sequence[Outcome]], samples: int = SAMPLES) -> Judged:
    """Return every figure by seed, and its bootstrap: the same units are drawn for all models and spaces.

    Args:
        task: task of the outcomes.
        outcomes: one outcome for each seed, by label.
        samples: number of draws.
    """
    figures = {
        (label, space): [task.figures(space, each.items[space]) for each in by_seed]
        for label, by_seed in outcomes.items()
        for space in by_seed[0].items
    }
    whole = np.ones((1, task.units))
    values = {place: [each(whole) for each in by_seed] for place, by_seed in figures.items()}
    drawn: dict[tuple[str, str, str], list[np.ndarray]] = defaultdict(list)
    for weights in group_weights(task.units, samples):
        for (label, space), by_seed in figures.items():
            weighted = [each(weights) for each in by_seed]
            for measure in weighted[0]:
                drawn[label, space, measure].append(np.mean([each[measure] for each in weighted], axis=0))
    # Trainings of different models are independent: each has its own draws of the seeds' error.
    numbers = {label: number for number, label in enumerate(outcomes)}
    judged: dict[str, dict[str, dict[str, Draws]]] = defaultdict(lambda: defaultdict(dict))
    for (label, space, measure), parts in drawn.items():
        by_seed_values = np.array([each[measure][0] for each in values[label, space]])
        judged[label][space][measure] = draws(by_seed_values, np.concatenate(parts), numbers[label], task.units)
    return judged
