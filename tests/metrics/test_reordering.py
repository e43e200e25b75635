"""Reordered hits have the ranks of a full list of scores in which they stand before everything else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightcrl.metrics.intervals import found_within, hits
from lightcrl.metrics.ranks import answer_places, ranks
from lightcrl.metrics.reordering import Reordered, first_hits
from lightcrl.metrics.retrieval import Retrieval
from samples import units

QUERIES, GALLERY, COUNT = 20, 40, 8


def right_pairs(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([(q, item) for q in range(QUERIES) for item in sorted(rng.choice(GALLERY, 3, replace=False))])


def oracle(whole: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Counts [Q, 3] of the best right item from all scores [Q, G]."""
    right = np.zeros(whole.shape, bool)
    right[tuple(pairs.T)] = True
    best = np.where(right, whole, -np.inf).max(1, keepdims=True)
    return np.stack(
        [((whole > best) & ~right).sum(1), ((whole == best) & ~right).sum(1), ((whole == best) & right).sum(1)], 1
    )


@pytest.mark.parametrize("tied", [False, True])
def test_ranks_and_places_are_those_of_all_scores_side_by_side(tied):
    queries, gallery, pairs = units(QUERIES, 6, seed=1), units(GALLERY, 6, seed=2), right_pairs()
    lists = first_hits(queries, gallery, COUNT)
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 3, lists.shape) * 1.0 if tied else rng.normal(size=lists.shape)
    reordered = Reordered.of(lists, scores, pairs)
    whole = (queries @ gallery.T).numpy() - 100
    np.put_along_axis(whole, lists, scores, 1)
    counts = reordered.ranks(ranks(queries, gallery, pairs))
    expected = oracle(whole, pairs)
    np.testing.assert_array_equal(counts, expected)
    assert reordered.right.any(1).sum() > 5
    assert not reordered.right.any(1).all()
    places = reordered.places(answer_places(queries, gallery, pairs), pairs)
    own = whole[tuple(pairs.T)][:, None]
    np.testing.assert_array_equal(places[:, 1], (whole[pairs[:, 0]] > own).sum(1))
    np.testing.assert_array_equal(places[:, 2], (whole[pairs[:, 0]] == own).sum(1))
    np.testing.assert_allclose(found_within(places, np.array([GALLERY])), 3)


def test_lists_are_the_first_hits_each_once():
    queries, gallery = units(QUERIES, 6, seed=1), units(GALLERY, 6, seed=2)
    lists = first_hits(queries, gallery, COUNT)
    expected = np.argsort(-(queries @ gallery.T).numpy(), axis=1)[:, :COUNT]
    np.testing.assert_array_equal(lists, expected)
    assert first_hits(queries, gallery, 99).shape == (QUERIES, GALLERY)


def test_the_same_scores_change_nothing_and_constant_ones_score_chance():
    vectors = {"image": units(30, 5, seed=4), "text": units(60, 5, seed=5)}
    links = {"image": np.stack([np.arange(30)] * 2, 1), "text": np.stack([np.arange(60), np.arange(60) // 2], 1)}
    retrieval = Retrieval(links)

    def same(source, queries, target, lists):
        return np.einsum("qd,qkd->qk", vectors[source][queries].numpy(), vectors[target].numpy()[lists])

    for direction, (counts, _) in retrieval.per_query(vectors).items():
        np.testing.assert_array_equal(retrieval.reordered(vectors, direction, 7, same).ranks(counts), counts)
        constant = retrieval.reordered(vectors, direction, 60, lambda s, q, t, lists: np.ones(lists.shape))
        size = gallery_size(direction, vectors)
        chance = hits(constant.ranks(counts), 1).mean()
        assert chance == pytest.approx((2 if direction == "image_to_text" else 1) / size)


def gallery_size(direction: str, vectors: dict[str, torch.Tensor]) -> int:
    return len(vectors[direction.partition("_to_")[2]])
