"""Text similarity: thresholds, figures of labelled and of scored pairs, against scikit-learn and scipy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lazily import Lazily
from lightcrl.errors import ShapeError
from lightcrl.metrics.similarity import (
    calibrate,
    classification,
    correlation,
    cosines,
    distribution,
    evaluate,
    ranking,
)

reference = Lazily("sklearn.metrics")

LABELS = {"similar": 1, "dissimilar": 0}


def pairs(count: int, seed: int, levels: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Similarities on a few levels, so that there are ties, that rise with the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.6
    return (rng.integers(0, levels, count) + 2 * labels) / (levels + 2), labels.astype(np.float64)


def at_once(figures, weights: np.ndarray) -> dict[str, float]:
    return {name: float(value[0]) for name, value in figures(weights[None].astype(np.float64)).items()}


def drawn(count: int, seed: int) -> np.ndarray:
    """Places of a bootstrap's draw."""
    return np.random.default_rng(seed).integers(0, count, count)


@pytest.mark.parametrize("seed", range(4))
def test_figures_of_labels_are_those_of_scikit_learn_also_of_a_draw(seed):
    similarities, labels = pairs(70, seed)
    threshold = 0.5
    for places in (np.arange(70), drawn(70, seed)):
        weights = np.bincount(places, minlength=70)
        found = at_once(classification(similarities, labels, threshold), weights)
        found |= at_once(ranking(similarities, labels), weights)
        said, true = similarities[places] >= threshold, labels[places]
        expected = {
            "accuracy": reference.accuracy_score(true, said),
            "average_precision": reference.average_precision_score(true, similarities[places]),
            "roc_auc": reference.roc_auc_score(true, similarities[places]),
        }
        for name, label in LABELS.items():
            three = reference.precision_recall_fscore_support(true, said, labels=[label], zero_division=0)
            keys = (f"{name}/{figure}" for figure in ("precision", "recall", "f1"))
            expected |= dict(zip(keys, (float(value[0]) for value in three[:3]), strict=True))
        assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_correlations_are_those_of_scipy_also_of_a_draw(seed):
    similarities, _ = pairs(50, seed)
    scores = np.random.default_rng(seed + 9).integers(0, 6, 50) / 2 + similarities
    for places in (np.arange(50), drawn(50, seed)):
        found = at_once(correlation(similarities, scores), np.bincount(places, minlength=50))
        assert found["spearman"] == pytest.approx(stats.spearmanr(similarities[places], scores[places]).statistic)
        assert found["pearson"] == pytest.approx(stats.pearsonr(similarities[places], scores[places]).statistic)


def test_a_class_that_is_never_called_has_precision_0():
    found = at_once(classification(np.array([0.1, 0.2]), np.array([1.0, 0.0]), 0.5), np.ones(2))
    assert (found["similar/precision"], found["similar/recall"], found["similar/f1"]) == (0, 0, 0)
    assert (found["dissimilar/precision"], found["dissimilar/recall"]) == (0.5, 1)


def test_without_variance_there_is_no_correlation():
    found = at_once(correlation(np.full(5, 0.3), np.arange(5.0)), np.ones(5))
    assert found == {"spearman": 0.0, "pearson": 0.0}


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=14),
)
def test_no_threshold_is_better_than_the_calibrated_one(found):
    similarities, labels = np.array([s / 6 for s, _ in found]), np.array([label for _, label in found])

    def accuracy(threshold: float) -> float:
        return float(((similarities >= threshold) == labels).mean())

    best = calibrate(similarities, labels)
    tried = [-2.0, *(level / 6 + 1 / 12 for level in range(7)), 3.0]
    assert accuracy(best) == max(map(accuracy, tried))
    # Midway between neighbours: no pair lies on it, or near.
    assert np.abs(similarities - best).min() >= 1 / 12 - 1e-6
    order = np.random.default_rng(0).permutation(len(labels))
    assert calibrate(similarities[order], labels[order]) == best


def test_of_equally_good_thresholds_the_middle_one_is_taken():
    similarities = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    # One mistake below 0.2, between 0.3 and 0.4, and above 0.5.
    assert calibrate(similarities, np.array([0, 1, 0, 1, 0, 1])) == 0.35
    assert calibrate(similarities, np.array([0, 0, 0, 1, 1, 1])) == 0.35


@pytest.mark.parametrize(("label", "called"), [(1, True), (0, False)])
def test_where_one_class_is_best_called_always_the_threshold_is_beyond_every_cosine(label, called):
    threshold = calibrate(np.array([-0.5, 0.9]), np.array([label, label]))
    assert {cosine >= threshold for cosine in (-1.0, 0.0, 1.0)} == {called}


def test_cosines_do_not_see_length_and_equal_vectors_have_one():
    left = torch.tensor([[3.0, 0.0], [1.0, 1.0], [0.2, 0.1]])
    right = torch.tensor([[5.0, 0.0], [0.0, 2.0], [-0.4, -0.2]])
    assert cosines(left, right).tolist() == [1.0, round(0.5**0.5, 6), -1.0]


def test_several_spaces_are_measured_on_the_same_pairs():
    similarities, labels = pairs(80, 3)
    result = evaluate({"raw a": similarities, "flat": np.full(80, 0.99)}, labels, {"raw a": 0.5, "flat": 0.5})
    share = labels.mean()
    assert result.metrics["raw a/roc_auc"] == pytest.approx(reference.roc_auc_score(labels, similarities))
    assert result.metrics["flat/accuracy"] == pytest.approx(share)
    assert result.metrics["flat/dissimilar/recall"] == 0
    assert result.chance["raw a/accuracy"] == pytest.approx(max(share, 1 - share))
    assert result.counts == {"pairs": 80, "similar": int(labels.sum())}
    assert result.thresholds == {"raw a": 0.5, "flat": 0.5}
    assert result.interval.keys() == result.metrics.keys()


def test_pairs_that_are_all_right_have_the_exact_interval_of_their_number():
    """No draw of right pairs has a wrong one, so a bootstrap alone would give 1 to 1."""
    cosines = np.array([0.9] * 30 + [0.1] * 12)
    labels = np.array([1.0] * 30 + [0.0] * 12)
    found = evaluate({"embedding": cosines}, labels, {"embedding": 0.5})
    assert set(found.metrics.values()) == {1.0}
    trials = dict.fromkeys(("similar/precision", "similar/recall", "similar/f1", "average_precision"), 30)
    trials |= dict.fromkeys(("dissimilar/precision", "dissimilar/recall", "dissimilar/f1", "roc_auc"), 12)
    for name, count in {**trials, "accuracy": 42}.items():
        assert found.interval[f"embedding/{name}"] == (pytest.approx(0.025 ** (1 / count)), 1.0), name


def test_a_class_that_is_never_called_has_an_interval_that_says_nothing_of_its_precision():
    found = evaluate({"embedding": np.array([0.1, 0.2, 0.3])}, np.array([0.0, 1.0, 0.0]), {"embedding": 2.0})
    assert found.metrics["embedding/similar/precision"] == 0
    assert found.interval["embedding/similar/precision"] == pytest.approx((0.0, 0.975))


def test_scores_have_correlations_with_intervals():
    rng = np.random.default_rng(0)
    scores = rng.random(300)
    result = evaluate({"raw a": scores + rng.normal(0, 0.3, 300)}, scores)
    assert result.metrics.keys() == {"raw a/spearman", "raw a/pearson"}
    low, high = result.interval["raw a/spearman"]
    assert 0.5 < low < result.metrics["raw a/spearman"] < high < 0.85
    # Fisher's interval of Pearson's, for normal data: about as wide.
    centre, spread = np.arctanh(result.metrics["raw a/pearson"]), 1.96 / np.sqrt(297)
    assert result.interval["raw a/pearson"] == pytest.approx(
        (np.tanh(centre - spread), np.tanh(centre + spread)), abs=0.02
    )


def test_the_distribution_is_the_share_of_either_class_in_equal_bins():
    similarities, labels = pairs(200, 5)
    found = distribution(similarities, labels, bins=8)
    edges = np.linspace(similarities.min(), similarities.max(), 9)
    for name, wanted in LABELS.items():
        chosen = similarities[labels == wanted]
        # The last bin has both of its ends.
        expected = [np.mean((chosen >= low) & (chosen < high)) for low, high in pairwise(edges)]
        expected[-1] += np.mean(chosen == edges[-1])
        assert found[name] == pytest.approx(expected, abs=1e-6)
    assert found["similarity"] == pytest.approx((edges[1:] + edges[:-1]) / 2, abs=1e-6)


def test_every_space_of_labelled_pairs_has_its_distribution_and_scores_have_none():
    similarities, labels = pairs(50, 6)
    result = evaluate({"a": similarities, "b": -similarities}, labels, {"a": 0.5, "b": -0.5})
    assert result.curves == {"a": distribution(similarities, labels), "b": distribution(-similarities, labels)}
    assert evaluate({"a": similarities}, similarities).curves == {}


def test_sizes_that_disagree_are_refused():
    with pytest.raises(ShapeError, match="2 similarities with 3 labels"):
        calibrate(np.zeros(2), np.zeros(3))
    with pytest.raises(ShapeError, match="raw a: 2 similarities of 3 pairs"):
        evaluate({"raw a": np.zeros(2)}, np.zeros(3))
    with pytest.raises(ShapeError, match="of 0 pairs"):
        evaluate({"raw a": np.zeros(0)}, np.zeros(0))
