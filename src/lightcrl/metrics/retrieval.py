"""Retrieval between any two modalities: R@K, median rank, mean R@1, with intervals over groups.

A query is one item; its right answers are all items of the other modality that share a group with it. Every item stands
in the gallery once. A hit at K means that at least one right answer is among the first K (CLIP's convention, not the
share of a query's right answers).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from torch import Tensor

from lightcrl.errors import EmptyDatasetError
from lightcrl.metrics.intervals import (
    best_ranks,
    bootstrap_interval,
    curve_ks,
    exact_at_ends,
    found_within,
    hits,
    mean_intervals,
    median_interval,
    median_rank,
    precision_recall,
)
from lightcrl.metrics.ranks import answer_places, mutual_ranks
from lightcrl.metrics.reordering import Reordered, first_hits
from lightcrl.metrics.result import Result

KS = (1, 5, 10)

Scorer = Callable[[str, np.ndarray, str, np.ndarray], np.ndarray]
"""A function from a modality, its items [Q], another modality and lists of its items [Q, N] to scores [Q, N]."""


PerQuery = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Ranks [Q, 3] and groups [Q] of the queries, by direction."""


@dataclass(frozen=True)
class _Direction:
    """Retrieval from one modality to another.

    Attributes:
        asking: modality of the queries.
        searched: modality of the gallery.
        queries: items with an answer, [Q].
        pairs: right items [P, 2] in order: number of a query, item of the gallery.
        groups: first group of each query, [Q].
    """

    asking: str
    searched: str
    queries: np.ndarray
    pairs: np.ndarray
    groups: np.ndarray

    def places(self, embeddings: Mapping[str, Tensor], together: bool) -> np.ndarray:
        """Return `ranks.answer_places` of this direction."""
        vectors = embeddings[self.asking]
        chosen = vectors if len(self.queries) == len(vectors) else vectors[self.queries]
        return answer_places(chosen, embeddings[self.searched], self.pairs, together=together)


class Retrieval:
    """Retrieval between modalities, prepared once from links and applied to any embeddings.

    Args:
        links: item number and group number, int64 [L, 2], by modality.
        ks: values K of R@K.
        of: modalities of which each direction has at least one; all by default.

    Raises:
        EmptyDatasetError: no group has items of two modalities.
    """

    def __init__(
        self, links: Mapping[str, np.ndarray], ks: Sequence[int] = KS, of: Collection[str] | None = None
    ) -> None:
        self.ks = tuple(ks)
        pairs = [(a, b) for a, b in permutations(sorted(links), 2) if of is None or a in of or b in of]
        directions = {f"{a}_to_{b}": _direction(a, b, links) for a, b in pairs}
        self._directions = {name: direction for name, direction in directions.items() if len(direction.queries)}
        if not self._directions:
            raise EmptyDatasetError(
                f"no group has items of two modalities ({', '.join(sorted(links))}); retrieval needs some that do."
            )

    @property
    def directions(self) -> tuple[str, ...]:
        """Names of the directions, such as `("image_to_text", "text_to_image")`."""
        return tuple(self._directions)

    def per_query(self, embeddings: Mapping[str, Tensor], *, together: bool = False) -> PerQuery:
        """Return the ranks of each query ([Q, 3], see `ranks.ranks`) and its group [Q], by direction.

        Args:
            embeddings: unit vectors [N_m, d] by modality.
            together: true to divide the work among all processes, which then must all make this call.
        """
        counts = {}
        for direction in self._directions.values():
            if direction.asking < direction.searched:
                a, b = direction.asking, direction.searched
                pairs = np.stack([direction.queries[direction.pairs[:, 0]], direction.pairs[:, 1]], 1)
                counts[a, b], counts[b, a] = mutual_ranks(embeddings[a], embeddings[b], pairs, together=together)
        return {
            name: (counts[direction.asking, direction.searched][direction.queries], direction.groups)
            for name, direction in self._directions.items()
        }

    def answers(self, direction: str) -> np.ndarray:
        """Return the number of right answers of each query of a direction, [Q]."""
        return np.bincount(self._directions[direction].pairs[:, 0])

    def answers_within(
        self,
        embeddings: Mapping[str, Tensor],
        direction: str,
        ks: np.ndarray,
        reordered: Reordered | None = None,
        *,
        together: bool = False,
    ) -> np.ndarray:
        """Return the number of right answers among each query's first k, [Q, K], with ties broken at random.

        Args:
            embeddings: unit vectors [N_m, d] by modality.
            direction: one of `directions`.
            ks: values of k [K], none greater than the gallery.
            reordered: first hits in another order.
            together: see `per_query`.
        """
        chosen = self._directions[direction]
        places = chosen.places(embeddings, together)
        return found_within(places if reordered is None else reordered.places(places, chosen.pairs), ks)

    def reordered(self, embeddings: Mapping[str, Tensor], direction: str, count: int, scorer: Scorer) -> Reordered:
        """Return the first `count` hits of every query of a direction, scored anew by `scorer`."""
        chosen = self._directions[direction]
        queries = embeddings[chosen.asking][chosen.queries]
        lists = first_hits(queries, embeddings[chosen.searched], count)
        return Reordered.of(lists, scorer(chosen.asking, chosen.queries, chosen.searched, lists), chosen.pairs)

    def modalities(self, direction: str) -> tuple[str, str]:
        """Return the modality of a direction's queries, and that of its gallery."""
        return self._directions[direction].asking, self._directions[direction].searched

    def gallery(self, direction: str, sizes: Mapping[str, int]) -> int:
        """Return the size of a direction's gallery, from `sizes` by modality."""
        return sizes[self._directions[direction].searched]

    def curves(self, embeddings: Mapping[str, Tensor]) -> dict[str, dict[str, list[float]]]:
        """Return `precision` and `recall` over the first `k`, from 1 to the gallery's size, by direction; see `curve`.

        Unlike in recall@K, recall is here the share of a query's right answers.
        """
        curves = {}
        for name, direction in self._directions.items():
            ks = curve_ks(len(embeddings[direction.searched]))
            curves[name] = curve(self.answers_within(embeddings, name, ks), self.answers(name), ks)
        return curves

    def __call__(self, embeddings: Mapping[str, Tensor]) -> Result:
        """Return all figures, from unit vectors [N_m, d] by modality; see `result`."""
        sizes = {modality: len(vectors) for modality, vectors in embeddings.items()}
        return self.result(self.per_query(embeddings), sizes)

    def result(self, per_query: PerQuery, sizes: Mapping[str, int]) -> Result:
        """Return all figures, from the output of `per_query` and the number of items by modality.

        Keys are `a_to_b/recall@K`, `a_to_b/median_rank`, and `mean_recall@1` over all directions.
        """
        answers = {name: self.answers(name) for name in per_query}
        galleries = {name: self.gallery(name, sizes) for name in per_query}
        return summarise(per_query, answers, galleries, dict.fromkeys(per_query, self.ks))


def summarise(
    per_query: PerQuery,
    answers: Mapping[str, np.ndarray],
    galleries: Mapping[str, int],
    ks: Mapping[str, Sequence[int]],
    *,
    medians: bool = True,
) -> Result:
    """Return all figures of retrieval, from ranks by direction.

    Args:
        per_query: output of `Retrieval.per_query`.
        answers: number of right answers of each query [Q], by direction.
        galleries: size of the gallery, by direction.
        ks: values K of R@K, by direction.
        medians: false if only the first ranks are exact, so that there is no median.
    """
    result = Result({})
    first: list[tuple[np.ndarray, np.ndarray]] = []
    for name, (counts, groups) in per_query.items():
        recalls = {f"{name}/recall@{k}": hits(counts, k) for k in ks[name]}
        result.metrics.update({key: float(hit.mean()) for key, hit in recalls.items()})
        drawn = len(np.unique(groups))
        for key, ends in mean_intervals(recalls, groups).items():
            result.interval[key] = exact_at_ends(ends, result.metrics[key], drawn)
        chances = {f"{name}/recall@{k}": _chance(answers[name], galleries[name], k) for k in ks[name]}
        result.chance.update(chances)
        if medians:
            result.metrics[f"{name}/median_rank"] = median_rank(counts)
            result.interval[f"{name}/median_rank"] = median_interval(best_ranks(counts), groups)
        result.counts[f"{name}/queries"], result.counts[f"{name}/gallery"] = len(counts), galleries[name]
        first.append((hits(counts, 1), groups))
    result.metrics["mean_recall@1"] = float(np.mean([hit.mean() for hit, _ in first]))
    result.interval["mean_recall@1"] = _interval_of_means(first, result.metrics["mean_recall@1"])
    result.chance["mean_recall@1"] = float(
        np.mean([result.chance.get(f"{name}/recall@1", np.nan) for name in per_query])
    )
    return result


def evaluate(embeddings: Mapping[str, Tensor], links: Mapping[str, np.ndarray]) -> Result:
    """Evaluate embeddings [N_m, d] with links [L_m, 2], both by modality, in a single call of `Retrieval`."""
    return Retrieval(links)(embeddings)


def mean_recall(per_query: PerQuery) -> float:
    """Return mean R@1 over all directions, without intervals, from the output of `Retrieval.per_query`."""
    return float(np.mean([hits(counts, 1).mean() for counts, _ in per_query.values()]))


def curve(within: np.ndarray, answers: np.ndarray, ks: np.ndarray) -> dict[str, list[float]]:
    """Means over queries of precision and recall over the first k.

    Args:
        within: [Q, K] right answers among each query's first k.
        answers: [Q] right answers in all.
        ks: [K].
    """
    precision, recall = precision_recall(within, answers, ks)
    return {"k": ks.tolist(), "precision": precision.tolist(), "recall": recall.tolist()}


def _direction(asking: str, searched: str, links: Mapping[str, np.ndarray]) -> _Direction:
    left, right = links[asking], links[searched]
    by_group = right[np.argsort(right[:, 1], kind="stable")]
    first, last = (np.searchsorted(by_group[:, 1], left[:, 1], side=side) for side in ("left", "right"))
    counts = last - first
    queries, at = np.unique(left[counts > 0, 0], return_index=True)
    # The right items of all links, concatenated; an item in several groups may have a right item twice.
    within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    items = by_group[np.repeat(first, counts) + within, 0]
    asker = np.searchsorted(queries, np.repeat(left[:, 0], counts))
    order = np.lexsort((items, asker))
    pairs = np.stack([asker[order], items[order]], 1)
    fresh = np.ones(len(pairs), dtype=bool)
    fresh[1:] = (np.diff(pairs, axis=0) != 0).any(1)
    return _Direction(asking, searched, queries, pairs[fresh], left[counts > 0, 1][at])


def _chance(right: np.ndarray, gallery: int, k: int) -> float:
    """Return the expected R@K of a random order: 1 - C(N - p, k) / C(N, k), averaged over the p in `right` [Q]."""
    counts = np.stack([np.zeros_like(right), gallery - right, right], 1)
    return float(hits(counts, k).mean())


def _interval_of_means(directions: Sequence[tuple[np.ndarray, np.ndarray]], mean: float) -> tuple[float, float]:
    """Return the interval of the mean over directions, with the same draws of groups for all of them."""
    names = np.unique(np.concatenate([groups for _, groups in directions]))
    sums = np.zeros((len(directions), len(names)))
    sizes = np.zeros_like(sums)
    for number, (hit, groups) in enumerate(directions):
        place = np.searchsorted(names, groups)
        sums[number] = np.bincount(place, weights=hit, minlength=len(names))
        sizes[number] = np.bincount(place, minlength=len(names))

    def statistic(weights: np.ndarray) -> np.ndarray:
        mean: np.ndarray = (weights @ sums.T / np.maximum(weights @ sizes.T, 1)).mean(1)
        return mean

    return exact_at_ends(bootstrap_interval(statistic, len(names)), mean, len(names))
