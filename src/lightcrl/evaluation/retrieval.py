"""Retrieval between any two modalities: R@K, median rank, mean R@1, with intervals over groups.

A query is one item; its right answers are all items of the other modality that share a group with it. Every item stands
in the gallery once. A hit at K means that a right answer is among the first K (CLIP's convention, not the share of all
right answers found).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np
from torch import Tensor

from lightcrl.errors import EmptyDatasetError
from lightcrl.evaluation.base import Result
from lightcrl.evaluation.metrics import (
    answer_places,
    best_ranks,
    bootstrap_interval,
    curve_ks,
    found_within,
    hits,
    mean_interval,
    median_interval,
    median_rank,
    precision_recall,
    ranks,
)

KS = (1, 5, 10)


class Retrieval:
    """Who should find whom: prepared once from links, asked as often as embeddings change.

    Args:
        links: by modality, int64 [L, 2]: item number, group number.
        ks: the K of R@K.

    Raises:
        EmptyDatasetError: no group has items of two modalities.
    """

    def __init__(self, links: Mapping[str, np.ndarray], ks: Sequence[int] = KS) -> None:
        self.ks = tuple(ks)
        self._directions = {
            f"{a}_to_{b}": (a, b, *_answers(links[a], links[b])) for a, b in permutations(sorted(links), 2)
        }
        self._directions = {name: found for name, found in self._directions.items() if len(found[2])}
        if not self._directions:
            raise EmptyDatasetError(
                f"no group has items of two modalities ({', '.join(sorted(links))}); retrieval needs some that do."
            )

    @property
    def directions(self) -> tuple[str, ...]:
        """Such as `("image_to_text", "text_to_image")`."""
        return tuple(self._directions)

    def mean_recall(self, embeddings: Mapping[str, Tensor]) -> float:
        """Mean R@1 over all directions, without intervals: what training watches."""
        return float(np.mean([hits(counts, 1).mean() for counts, _ in self.per_query(embeddings).values()]))

    def per_query(self, embeddings: Mapping[str, Tensor]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By direction, how each query fares ([Q, 3], see `metrics.ranks`) and its group [Q]."""
        return {
            name: (ranks(embeddings[a][queries], embeddings[b], answers), groups)
            for name, (a, b, queries, answers, groups) in self._directions.items()
        }

    def precision_per_query(
        self, embeddings: Mapping[str, Tensor], ks: Sequence[int]
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By direction, the share of right items among each query's first k ([Q, K]) and its group [Q].

        K are those of `ks` that the direction's gallery has.
        """
        found = {}
        for name, (a, b, queries, answers, groups) in self._directions.items():
            within = np.array([k for k in ks if k <= len(embeddings[b])])
            places = answer_places(embeddings[a][queries], embeddings[b], answers)
            found[name] = found_within(places, within) / within, groups
        return found

    def curves(self, embeddings: Mapping[str, Tensor]) -> dict[str, dict[str, list[float]]]:
        """By direction, `precision` and `recall` over the first `k`, from 1 to the gallery's size; see `metrics`.

        Other than in recall@K, recall is here the share of a query's right answers that are found.
        """
        found = {}
        for name, (a, b, queries, answers, _) in self._directions.items():
            ks = curve_ks(len(embeddings[b]))
            precision, recall = precision_recall(answer_places(embeddings[a][queries], embeddings[b], answers), ks)
            found[name] = {"k": ks.tolist(), "precision": precision.tolist(), "recall": recall.tolist()}
        return found

    def __call__(self, embeddings: Mapping[str, Tensor]) -> Result:
        """All figures, from unit vectors [N_m, d] by modality.

        Keys are `a_to_b/recall@K`, `a_to_b/median_rank`, and `mean_recall@1` over all directions.
        """
        result = Result({})
        first: list[tuple[np.ndarray, np.ndarray]] = []
        for name, (counts, groups) in self.per_query(embeddings).items():
            _, b, queries, answers, _ = self._directions[name]
            size = len(embeddings[b])
            for k in self.ks:
                hit = hits(counts, k)
                result.metrics[f"{name}/recall@{k}"] = float(hit.mean())
                result.interval[f"{name}/recall@{k}"] = mean_interval(hit, groups)
                result.chance[f"{name}/recall@{k}"] = _chance([len(found) for found in answers], size, k)
            result.metrics[f"{name}/median_rank"] = median_rank(counts)
            result.interval[f"{name}/median_rank"] = median_interval(best_ranks(counts), groups)
            result.counts[f"{name}/queries"], result.counts[f"{name}/gallery"] = len(queries), size
            first.append((hits(counts, 1), groups))
        result.metrics["mean_recall@1"] = float(np.mean([hit.mean() for hit, _ in first]))
        result.interval["mean_recall@1"] = _interval_of_means(first)
        result.chance["mean_recall@1"] = float(
            np.mean([result.chance.get(f"{name}/recall@1", np.nan) for name in self._directions])
        )
        return result


def evaluate(embeddings: Mapping[str, Tensor], links: Mapping[str, np.ndarray]) -> Result:
    """`Retrieval` in one call: embeddings [N_m, d] and links [L_m, 2] by modality."""
    return Retrieval(links)(embeddings)


def _answers(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Queries on the left that have an answer, the right items of each, and the (first) group of each."""
    by_group: dict[int, list[int]] = {}
    for item, group in right.tolist():
        by_group.setdefault(group, []).append(item)
    answers: dict[int, list[int]] = {}
    first_group: dict[int, int] = {}
    for item, group in left.tolist():
        if group in by_group:
            answers.setdefault(item, []).extend(by_group[group])
            first_group.setdefault(item, group)
    queries = np.array(sorted(answers), dtype=np.int64)
    groups = np.array([first_group[item] for item in queries.tolist()], dtype=np.int64)
    return queries, [np.unique(answers[item]) for item in queries.tolist()], groups


def _chance(answers: Sequence[int], gallery: int, k: int) -> float:
    """Expected R@K of a random order: 1 - C(N - p, k) / C(N, k), averaged over queries with p answers."""
    counts = np.zeros((len(answers), 3), dtype=np.int64)
    counts[:, 2] = answers
    counts[:, 1] = gallery - counts[:, 2]
    return float(hits(counts, k).mean())


def _interval_of_means(directions: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Interval of the mean over directions, the same groups drawn for all of them."""
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

    return bootstrap_interval(statistic, len(names))
