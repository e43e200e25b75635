"""From outcomes of several seeds to figures with intervals, and from these to what becomes of the paper's claims."""

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
