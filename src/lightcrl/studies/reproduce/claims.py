"""From outcomes of several seeds to figures with intervals, and from these to what becomes of the paper's claims."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightcrl.metrics.intervals import group_weights
from lightcrl.metrics.statistics import Difference, Draws, difference, draws
from lightcrl.studies.reproduce.published import RAW, Claim, Published
from lightcrl.tasks.base import Outcome, Task

SAMPLES = 2000

Judged = Mapping[str, Mapping[str, Mapping[str, Draws]]]
"""Draws by label, space and measure; the encoders as they come have the label `"raw"`."""


@dataclass(frozen=True)
class Reading:
    """What the paired differences say of one claim in one space and measure.

    Attributes:
        claim: the paper's.
        task: by its name in the family.
        space: of the models.
        measure: in what.
        against: whom they are held against: a label, or a space of the encoders as they come.
        differences: by label, how far the model is above.
    """

    claim: Claim
    task: str
    space: str
    measure: str
    against: str
    differences: Mapping[str, Difference]

    @property
    def word(self) -> str:
        """`"holds"`, `"does not hold"`, `"not told apart"`, or for whom which of them."""
        by_word = defaultdict(list)
        for label, found in self.differences.items():
            by_word[WORDS[found.word]].append(label)
        if len(by_word) == 1:
            return next(iter(by_word))
        return "; ".join(f"{word} for {', '.join(by_word[word])}" for word in WORDS.values() if word in by_word)


WORDS = {"better": "holds", "not significant": "not told apart", "worse": "does not hold"}
"""What becomes of "is above", by what the difference is called."""


def judge(task: Task, outcomes: Mapping[str, Sequence[Outcome]], samples: int = SAMPLES) -> Judged:
    """Every figure by seed, and its bootstrap: the same units are drawn for all models and spaces.

    Args:
        task: that the outcomes are of.
        outcomes: by label, one for each seed, one or more.
        samples: draws.
    """
    figures = {
        (label, space): [task.figures(space, one[space]) for one in by_seed]
        for label, by_seed in outcomes.items()
        for space in by_seed[0]
    }
    whole = np.ones((1, task.units))
    values: dict[tuple[str, str], list[Mapping[str, np.ndarray]]] = {
        place: [one(whole) for one in by_seed] for place, by_seed in figures.items()
    }
    drawn: dict[tuple[str, str, str], list[np.ndarray]] = defaultdict(list)
    for weights in group_weights(task.units, samples):
        for (label, space), by_seed in figures.items():
            found = [one(weights) for one in by_seed]
            for measure in found[0]:
                drawn[label, space, measure].append(np.mean([one[measure] for one in found], axis=0))
    # Trainings of different models are independent: each has draws of its own for the seeds' error.
    numbers = {label: number for number, label in enumerate(outcomes)}
    judged: dict[str, dict[str, dict[str, Draws]]] = defaultdict(lambda: defaultdict(dict))
    for (label, space, measure), parts in drawn.items():
        by_seed_values = np.array([one[measure][0] for one in values[label, space]])
        judged[label][space][measure] = draws(by_seed_values, np.concatenate(parts), numbers[label])
    return judged


def read_claims(
    name: str, task: Task, kind: str, judged: Judged, names: Mapping[str, str | None], facts: Published
) -> list[Reading]:
    """What becomes of the claims that show in a task.

    Args:
        name: of the task in the family.
        task: the task.
        kind: its name in `TASKS`.
        judged: its figures.
        names: by label, the paper's name of the model.
        facts: what the paper says.
    """
    own = [label for label in judged if facts.is_encoder(names.get(label))]
    readings = []
    for claim in (claim for claim in facts.claims if claim.task == kind and own):
        against = [RAW] if claim.against == RAW else [label for label in judged if names.get(label) == claim.against]
        for rival in (label for label in against if label in judged):
            for space in judged[own[0]]:
                for other in task.rivals(space) if rival == RAW else (space,):
                    readings += [
                        Reading(
                            claim,
                            name,
                            space,
                            measure,
                            other if rival == RAW else rival,
                            {
                                label: difference(judged[label][space][measure], judged[rival][other][measure])
                                for label in own
                            },
                        )
                        for measure in claim.measures
                        if measure in judged[own[0]][space]
                    ]
    return readings
