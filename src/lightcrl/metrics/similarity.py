"""Text similarity: separation of similar from dissimilar pairs by cosine, and correlation with people's scores.

Labelled pairs are called similar at or above a threshold. It is calibrated on other pairs, for every space separately:
the cosines of one encoder may lie between 0.95 and 1, those of another between 0 and 1, and a fixed threshold would
call all pairs of the first similar.

Every figure is a function of weights [S, N], the number of times that each of N pairs was drawn, to values [S]. Weights
of one give the figure itself, those of the bootstrap its interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor
from torch.nn.functional import cosine_similarity

from lightcrl.errors import ShapeError
from lightcrl.metrics.intervals import bootstrap_intervals, exact_at_ends
from lightcrl.metrics.result import Result

CLASSES = (("similar", True), ("dissimilar", False))
CORRELATIONS = ("spearman", "pearson")
"""Measures that may be below zero."""
BINS = 40
DECIMALS = 6
"""Number of decimals of cosines; smaller differences are rounding errors of float32 and count as equal."""

Figures = Callable[[np.ndarray], dict[str, np.ndarray]]


def cosines(left: Tensor, right: Tensor) -> np.ndarray:
    """Return the cosine of each pair, [N] float64, from vectors [N, d]."""
    values: np.ndarray = cosine_similarity(left.double(), right.double(), dim=-1).numpy().round(DECIMALS)
    return values


def calibrate(similarities: np.ndarray, labels: np.ndarray) -> float:
    """Return the threshold of greatest accuracy: pairs of at least that similarity are similar.

    It lies midway between two neighbouring similarities, or beyond all cosines if it is best to call every pair the
    same. Among several equally good places the middle one is taken (the lower of two).

    Args:
        similarities: cosines [N].
        labels: [N], 1 or true where a pair is similar.

    >>> calibrate(np.array([0.1, 0.2, 0.4, 0.8]), np.array([0, 0, 1, 1]))
    0.3

    Raises:
        ShapeError: sizes disagree, or there are no pairs.
    """
    if len(similarities) != len(labels) or len(similarities) == 0:
        raise ShapeError(
            f"{len(similarities)} similarities with {len(labels)} labels; expected equal numbers, at least 1."
        )
    values, place = np.unique(similarities, return_inverse=True)
    similar = np.bincount(place, weights=labels, minlength=len(values))
    gained = np.bincount(place, minlength=len(values)) - 2 * similar
    # Right answers with the first k values below the threshold: all similar pairs, plus the change of each step.
    right = similar.sum() + np.concatenate([[0], gained.cumsum()])
    best = np.flatnonzero(right == right.max())
    # Two cosines differ by at most 2.
    edges = np.concatenate([[values[0] - 2], (values[1:] + values[:-1]) / 2, [values[-1] + 2]])
    return float(edges[best[(len(best) - 1) // 2]].round(DECIMALS + 1))


def classification(similarities: np.ndarray, labels: np.ndarray, threshold: float) -> Figures:
    """Return accuracy, and precision, recall and F1 of each class; 0 if no pair was called or is of the class."""
    said, labels = similarities >= threshold, labels.astype(bool)

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        rates = {"accuracy": weights @ (said == labels) / weights.sum(1)}
        for name, wanted in CLASSES:
            hit, called, there = (
                weights @ chosen.astype(np.float64)
                for chosen in ((said == wanted) & (labels == wanted), said == wanted, labels == wanted)
            )
            rates[f"{name}/precision"], rates[f"{name}/recall"] = _ratio(hit, called), _ratio(hit, there)
            rates[f"{name}/f1"] = _ratio(2 * hit, called + there)
        return rates

    return figures


def precisions(similarities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, float]:
    """Return the precision of each class, without intervals: `similar/precision` and `dissimilar/precision`.

    >>> precisions(np.array([0.1, 0.6, 0.8, 0.9]), np.array([0, 0, 1, 1]), 0.5)
    {'similar/precision': 0.6666666666666666, 'dissimilar/precision': 1.0}
    """
    figures = classification(similarities, labels, threshold)(np.ones((1, len(labels))))
    return {f"{name}/precision": float(figures[f"{name}/precision"][0]) for name, _ in CLASSES}


def distribution(similarities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> dict[str, list[float]]:
    """Return the distribution of similarities: middles of `bins` equal bins, and the share of each class in them.

    Args:
        similarities: cosines [N].
        labels: [N], 1 or true where a pair is similar.
        bins: number of bins between the least and the greatest similarity of both classes.

    >>> distribution(np.array([0.0, 0.2, 0.8, 1.0]), np.array([0, 0, 1, 0]), bins=2)
    {'similarity': [0.25, 0.75], 'similar': [0.0, 1.0], 'dissimilar': [0.666667, 0.333333]}
    """
    edges = np.histogram_bin_edges(similarities, bins)
    columns = {"similarity": ((edges[1:] + edges[:-1]) / 2).round(DECIMALS).tolist()}
    for name, wanted in CLASSES:
        chosen = similarities[labels.astype(bool) == wanted]
        columns[name] = (np.histogram(chosen, edges)[0] / max(1, len(chosen))).round(DECIMALS).tolist()
    return columns


def ranking(similarities: np.ndarray, labels: np.ndarray) -> Figures:
    """Return average precision of the similar class, and area under the ROC curve, with equal similarities pooled.

    Average precision is the sum over thresholds of the gain in recall times the precision, without interpolation; the
    area is the share of (similar, dissimilar) pairs in the right order, ties counting half.
    """
    values, place = np.unique(-similarities, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(values)))
    labels = labels[order].astype(np.float64)

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        drawn = weights[:, order]
        all_ = np.add.reduceat(drawn, starts, axis=1)
        similar = np.add.reduceat(drawn * labels, starts, axis=1)
        dissimilar = all_ - similar
        precision = _ratio(similar.cumsum(1), all_.cumsum(1))
        below = dissimilar.sum(1, keepdims=True) - dissimilar.cumsum(1) + dissimilar / 2
        return {
            "average_precision": _ratio((similar * precision).sum(1), similar.sum(1)),
            "roc_auc": _ratio((similar * below).sum(1), similar.sum(1) * dissimilar.sum(1)),
        }

    return figures


def correlation(similarities: np.ndarray, scores: np.ndarray) -> Figures:
    """Return Spearman's (Pearson's of ranks; equal values share a middle rank) and Pearson's; 0 without variance."""

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "spearman": _pearson(_ranks(similarities, weights), _ranks(scores, weights), weights),
            "pearson": _pearson(similarities[None], scores[None], weights),
        }

    return figures


def evaluate(
    similarities: Mapping[str, np.ndarray], truth: np.ndarray, thresholds: Mapping[str, float] | None = None
) -> Result:
    """Return all figures of several spaces on the same pairs, as `space/figure`, with 95 % intervals over pairs.

    With thresholds, the curves contain the distribution of each space.

    Args:
        similarities: cosines [N] by space.
        truth: [N]: 1 for similar and 0 for dissimilar, or scores.
        thresholds: output of `calibrate` by space; None if `truth` has scores.

    Raises:
        ShapeError: sizes disagree, or there are no pairs.
    """
    for space, cosine in similarities.items():
        if len(cosine) != len(truth) or len(truth) == 0:
            raise ShapeError(
                f"{space}: {len(cosine)} similarities of {len(truth)} pairs; expected equal numbers, at least 1."
            )
    result = Result({}, counts={"pairs": len(truth)}, thresholds=dict(thresholds or {}))
    chance = {"spearman": 0.0, "pearson": 0.0}
    if thresholds is not None:
        share = float(np.mean(truth))
        result.counts["similar"] = int(np.sum(truth))
        chance = {"accuracy": max(share, 1 - share), "average_precision": share, "roc_auc": 0.5}
    for space, cosine in similarities.items():
        if thresholds is None:
            parts, trials = [correlation(cosine, truth)], {}
        else:
            trials = _trials(cosine, truth, thresholds[space])
            parts = [classification(cosine, truth, thresholds[space]), ranking(cosine, truth)]
            result.curves[space] = distribution(cosine, truth)
        for part in parts:
            values = part(np.ones((1, len(truth))))
            intervals = bootstrap_intervals(part, len(truth), width=6 * len(truth))
            result.metrics.update({f"{space}/{name}": float(value[0]) for name, value in values.items()})
            for name, value in values.items():
                ends = intervals[name]
                exact = exact_at_ends(ends, float(value[0]), trials[name]) if name in trials else ends
                result.interval[f"{space}/{name}"] = exact
            result.chance.update({f"{space}/{name}": chance[name] for name in values if name in chance})
    return result


def _trials(similarities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, int]:
    """Return the number of pairs that each share of labelled pairs is taken of, at least 1; of F1, pairs of the class.

    The area under the ROC curve is no better known than the class of fewer pairs.
    """
    said, labels = similarities >= threshold, labels.astype(bool)
    trials = {"accuracy": len(labels), "average_precision": int(labels.sum())}
    for name, wanted in CLASSES:
        called, there = int((said == wanted).sum()), int((labels == wanted).sum())
        trials |= {f"{name}/precision": called, f"{name}/recall": there, f"{name}/f1": there}
    trials["roc_auc"] = min(int(labels.sum()), int((~labels).sum()))
    return {name: max(1, count) for name, count in trials.items()}


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return the ratio, 0 where `below` is zero."""
    ratio: np.ndarray = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return ratio


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return ranks [S, N] of `values` [N] in draws that contain each value as often as `weights` [S, N]."""
    names, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    counts = np.add.reduceat(weights[:, order], np.searchsorted(place[order], np.arange(len(names))), axis=1)
    middle: np.ndarray = counts.cumsum(1) - (counts - 1) / 2
    return middle[:, place]


def _pearson(left: np.ndarray, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the correlation [S] of `left` and `right` ([S, N] or [1, N]) under weights [S, N]."""
    total = weights.sum(1, keepdims=True)
    left = left - (weights * left).sum(1, keepdims=True) / total
    right = right - (weights * right).sum(1, keepdims=True) / total
    spread = np.sqrt((weights * left**2).sum(1) * (weights * right**2).sum(1))
    return _ratio((weights * left * right).sum(1), np.where(spread > 1e-12, spread, 0.0))
