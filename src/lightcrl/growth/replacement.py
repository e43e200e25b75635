"""What another encoder does to a modality that is indexed already: may the index stay, or is it to be made anew?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightcrl.metrics.intervals import hits
from lightcrl.metrics.retrieval import Retrieval
from lightcrl.metrics.statistics import Difference, Estimate, bootstrap_ratios, difference, draws, estimate

TOLERABLE = 0.01
"""Mean R@1 that may be lost with an index that stays."""

Sides = tuple[str, str]
"""Which embeddings of the replaced modality ask, and which are searched."""

CASES: Mapping[str, Sides] = {
    "old/old": ("old", "old"),
    "new/old": ("new", "old"),
    "new/mixed": ("new", "mixed"),
    "new/new": ("new", "new"),
}
"""By name, queries and index. Mixed: every other item is indexed by its old embedding, the rest by the new one."""


@dataclass(frozen=True)
class Replacement:
    """Recall before and after, with the index kept and made anew.

    Attributes:
        modality: that has another encoder.
        recall: by case, mean R@1 over the directions from and to every other modality.
        directions: by case and direction, R@1.
        kept: new queries with the old index, minus the old encoder's; paired by groups.
        anew: new queries with a new index, minus those with the old one.
    """

    modality: str
    recall: Mapping[str, Estimate]
    directions: Mapping[str, Mapping[str, float]]
    kept: Difference
    anew: Difference

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "modality": self.modality,
            "mean_recall@1": {case: {"mean": e.mean, "interval": list(e.items)} for case, e in self.recall.items()},
            "directions": {case: dict(found) for case, found in self.directions.items()},
            "kept": {"mean": self.kept.mean, "interval": list(self.kept.interval), "word": self.kept.word},
            "anew": {"mean": self.anew.mean, "interval": list(self.anew.interval), "word": self.anew.word},
            "advice": self.advice,
        }

    @property
    def may_keep(self) -> bool:
        """Whether the index may stay: no more is lost than is tolerable, or than chance explains."""
        return self.kept.mean >= -TOLERABLE or self.kept.word == "not significant"

    @property
    def advice(self) -> str:
        """What to do, in a sentence."""
        change = f"{_points(self.kept)} points {'gained' if self.kept.mean >= 0 else 'lost'} ({_ends(self.kept)})"
        more = f"{_points(self.anew)} points {'more' if self.anew.mean >= 0 else 'less'} ({_ends(self.anew)})"
        if self.may_keep:
            return f"You may keep the index: {change}; embedding everything again would give {more}."
        if self.anew.mean > 0:
            return f"Embed everything again: with the old index {change}, a new one gives {more}."
        return f"Stay with the old encoder: {change} with its index, and embedding everything again would give {more}."


def measure_replacement(
    modality: str, fresh: Tensor, old: Tensor, others: Mapping[str, Tensor], links: Mapping[str, np.ndarray]
) -> Replacement:
    """Recall of every case of `CASES`.

    Args:
        modality: that has another encoder.
        fresh: [N, d] its embeddings by the new encoder.
        old: [M, d] those by the old one.
        others: by modality, embeddings of what did not change.
        links: item and group numbers [L, 2] of `others`, and of `"new"` and `"old"`.
    """
    gallery = {"new": (fresh, links["new"]), "old": (old, links["old"]), "mixed": _mixed(fresh, old, links)}
    sums: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
    size = 1 + max(int(found[:, 1].max(initial=0)) for found in links.values())
    for side, (vectors, owners) in gallery.items():
        for name, found in others.items():
            retrieval = Retrieval({side: owners, name: links[name]})
            for direction, (counts, groups) in retrieval.per_query({side: vectors, name: found}).items():
                asking, _, searched = direction.partition("_to_")
                hit = np.bincount(groups, hits(counts, 1), size)
                sums[asking, searched] = hit, np.bincount(groups, minlength=size).astype(float)
    recall, directions, drawn = {}, {}, {}
    for case, (asking, searched) in CASES.items():
        keys = [(asking, name) for name in others] + [(name, searched) for name in others]
        right, sizes = (np.stack([sums[key][part] for key in keys]) for part in (0, 1))
        values = right.sum(1) / sizes.sum(1)
        drawn[case] = draws(values.mean(keepdims=True), bootstrap_ratios(right, sizes).mean(1), 0)
        recall[case] = estimate(drawn[case])
        ends = [f"{modality}_to_{name}" for name in others] + [f"{name}_to_{modality}" for name in others]
        directions[case] = dict(zip(ends, values.tolist(), strict=True))
    return Replacement(
        modality,
        recall,
        directions,
        difference(drawn["new/old"], drawn["old/old"]),
        difference(drawn["new/new"], drawn["new/old"]),
    )


def _mixed(fresh: Tensor, old: Tensor, links: Mapping[str, np.ndarray]) -> tuple[Tensor, np.ndarray]:
    """An index that has begun with the old encoder and goes on with the new one: every other group is old."""
    early = links["old"][links["old"][:, 1] % 2 == 0]
    late = links["new"][links["new"][:, 1] % 2 == 1]
    chosen, places = zip(*(np.unique(part[:, 0], return_inverse=True) for part in (early, late)), strict=True)
    vectors = torch.cat([old[chosen[0]], fresh[chosen[1]]])
    numbers = np.concatenate([places[0], places[1] + len(chosen[0])])
    return vectors, np.stack([numbers, np.concatenate([early[:, 1], late[:, 1]])], 1)


def _points(found: Difference) -> str:
    return f"{abs(100 * found.mean):.1f}"


def _ends(found: Difference) -> str:
    low, high = found.interval
    return f"{100 * low:+.1f} to {100 * high:+.1f}"
