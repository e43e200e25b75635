"""The paper's claims, tested by paired differences between models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from lightcrl.metrics.statistics import Difference, difference
from lightcrl.studies.judge import Judged
from lightcrl.studies.reproduce.published import RAW, Claim, Published
from lightcrl.tasks.base import Task


@dataclass(frozen=True)
class Reading:
    """The paired differences that test one claim in one space and measure.

    Attributes:
        claim: claim of the paper.
        task: name of the task in the family.
        space: space of the models.
        measure: measure in which the models are compared.
        against: rival of the models: a label, or a space of the frozen-encoder baselines.
        differences: differences of the models from the rival, by label.
    """

    claim: Claim
    task: str
    space: str
    measure: str
    against: str
    differences: Mapping[str, Difference]

    @property
    def word(self) -> str:
        """The verdict: `"holds"`, `"does not hold"` or `"no significant difference"`; with labels if models differ."""
        by_word = defaultdict(list)
        for label, paired in self.differences.items():
            by_word[WORDS[paired.word]].append(label)
        if len(by_word) == 1:
            return next(iter(by_word))
        return "; ".join(f"{word} for {', '.join(by_word[word])}" for word in WORDS.values() if word in by_word)


WORDS = {"better": "holds", "not significant": "no significant difference", "worse": "does not hold"}
"""Verdict on the claim "is above", by the word for the difference."""


def read_claims(
    name: str, task: Task, kind: str, judged: Judged, names: Mapping[str, str | None], facts: Published
) -> list[Reading]:
    """Return the readings of all claims about a task.

    Args:
        name: name of the task in the family.
        task: the task.
        kind: name of the task in `TASKS`.
        judged: figures of the task.
        names: the paper's name of each model, by label; None for a model that the paper does not have.
        facts: figures and claims of the paper.
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
