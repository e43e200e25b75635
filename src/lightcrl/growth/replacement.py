"""Effect of another encoder on an existing index: recall with the old index and with a new one, and advice."""

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
"""Greatest tolerable loss of mean R@1 with the old index, as a fraction."""

Sides = tuple[str, str]
"""Queries and index: the embeddings of the replaced modality in each role."""

CASES: Mapping[str, Sides] = {
    "old/old": ("old", "old"),
    "new/old": ("new", "old"),
    "new/mixed": ("new", "mixed"),
    "new/new": ("new", "new"),
}
"""Queries and index of every case by its name.

In a mixed index, every other group has its old embeddings, and the rest have new ones.
"""


@dataclass(frozen=True)
class Replacement:
    """Recall before and after a replacement, with the old and with a new index.

    Attributes:
        modality: modality whose encoder was replaced.
        recall: mean R@1 over the directions from and to every other modality, by case.
        directions: R@1 by case and direction.
        kept: mean R@1 of `new/old` minus that of `old/old`, paired by groups.
        anew: mean R@1 of `new/new` minus that of `new/old`, paired by groups.
    """

    modality: str
    recall: Mapping[str, Estimate]
    directions: Mapping[str, Mapping[str, float]]
    kept: Difference
    anew: Difference

    def to_json(self) -> dict[str, Any]:
        """Return the figures and the advice as plain JSON values."""
        return {
            "modality": self.modality,
            "mean_recall@1": {case: {"mean": e.mean, "interval": list(e.items)} for case, e in self.recall.items()},
            "directions": {case: dict(values) for case, values in self.directions.items()},
            "kept": {"mean": self.kept.mean, "interval": list(self.kept.interval), "word": self.kept.word},
            "anew": {"mean": self.anew.mean, "interval": list(self.anew.interval), "word": self.anew.word},
            "advice": self.advice,
        }

    @property
    def may_keep(self) -> bool:
        """Return true if the old index may stay: its loss is at most `TOLERABLE`, or is not significant."""
        return self.kept.mean >= -TOLERABLE or self.kept.word == "not significant"

    @property
    def advice(self) -> str:
        """The recommendation for the index, in a sentence."""
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
    """Measure the recall of every case of `CASES`.

    Args:
        modality: modality whose encoder was replaced.
        fresh: its embeddings by the new encoder, [N, d].
        old: its embeddings by the old encoder, [M, d].
        others: embeddings of every other modality, [K, d].
        links: item and group numbers [L, 2] of `others`, and of `"new"` and `"old"`.
    """
    gallery = {"new": (fresh, links["new"]), "old": (old, links["old"]), "mixed": _mixed(fresh, old, links)}
    sums: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
    size = 1 + max(int(pairs[:, 1].max(initial=0)) for pairs in links.values())
    for side, (vectors, owners) in gallery.items():
        for name, embeddings in others.items():
            retrieval = Retrieval({side: owners, name: links[name]})
            for direction, (counts, groups) in retrieval.per_query({side: vectors, name: embeddings}).items():
                asking, _, searched = direction.partition("_to_")
                hit = np.bincount(groups, hits(counts, 1), size)
                sums[asking, searched] = hit, np.bincount(groups, minlength=size).astype(float)
    recall, directions, drawn = {}, {}, {}
    for case, (asking, searched) in CASES.items():
        keys = [(asking, name) for name in others] + [(name, searched) for name in others]
        right, sizes = (np.stack([sums[key][part] for key in keys]) for part in (0, 1))
        values = right.sum(1) / sizes.sum(1)
        counted = int(np.count_nonzero(sizes.sum(0)))
        drawn[case] = draws(values.mean(keepdims=True), bootstrap_ratios(right, sizes).mean(1), 0, counted)
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
    """Return vectors and links of an index of both encoders: old embeddings of even groups, new ones of odd groups."""
    early = links["old"][links["old"][:, 1] % 2 == 0]
    late = links["new"][links["new"][:, 1] % 2 == 1]
    chosen, places = zip(*(np.unique(part[:, 0], return_inverse=True) for part in (early, late)), strict=True)
    vectors = torch.cat([old[chosen[0]], fresh[chosen[1]]])
    numbers = np.concatenate([places[0], places[1] + len(chosen[0])])
    return vectors, np.stack([numbers, np.concatenate([early[:, 1], late[:, 1]])], 1)


def _points(change: Difference) -> str:
    return f"{abs(100 * change.mean):.1f}"


def _ends(change: Difference) -> str:
    low, high = change.interval
    return f"{100 * low:+.1f} to {100 * high:+.1f}"
