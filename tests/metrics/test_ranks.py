"""Both directions of one product, many answers, and who answers whom, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightcrl.errors import ShapeError
from lightcrl.metrics.intervals import hits
from lightcrl.metrics.ranks import TIE, answer_places, mutual_ranks, ranks
from lightcrl.metrics.retrieval import Retrieval
from samples import units


def make_pairs(left: int, right: int, share: float = 0.1, seed: int = 0) -> np.ndarray:
    """Some pairs [P, 2] in order; an item may be in none."""
    return np.argwhere(np.random.default_rng(seed).random((left, right)) < share)


def by_loop(queries: torch.Tensor, gallery: torch.Tensor, pairs: np.ndarray) -> list[list[int]]:
    """`ranks`' counts, one query after another in float64; zeros without a right item."""
    counts = []
    for query, scores in enumerate((queries.double() @ gallery.double().T).numpy()):
        right = np.isin(np.arange(len(gallery)), pairs[pairs[:, 0] == query, 1])
        if not right.any():
            counts.append([0, 0, 0])
            continue
        best = scores[right].max()
        equal = np.abs(scores - best) <= TIE
        counts.append([(scores > best + TIE).sum(), (equal & ~right).sum(), (equal & right).sum()])
    return counts


@pytest.mark.parametrize(("chunk", "gallery_chunk"), [(256, 4096), (1, 1), (7, 3), (30, 11)])
def test_one_product_serves_both_directions(monkeypatch, chunk, gallery_chunk):
    left, right = units(30, 6, 1, torch.float32), units(41, 6, 2, torch.float32)
    right[::4], left[::5] = right[0], left[0]  # ties in different blocks
    pairs = make_pairs(30, 41, share=0.05)
    assert len(np.unique(pairs[:, 1])) < 41  # some are in no pair
    monkeypatch.setattr("lightcrl.metrics.ranks.CHUNK", chunk)
    monkeypatch.setattr("lightcrl.metrics.ranks.GALLERY_CHUNK", gallery_chunk)
    of_left, of_right = mutual_ranks(left, right, pairs)
    assert of_left.tolist() == by_loop(left, right, pairs)
    turned = pairs[np.lexsort(pairs.T)][:, ::-1]
    assert of_right.tolist() == by_loop(right, left, turned)
    asked = np.unique(turned[:, 0])
    alone = ranks(right[asked], left, np.stack([np.searchsorted(asked, turned[:, 0]), turned[:, 1]], 1))
    assert np.array_equal(of_right[asked], alone)


@pytest.mark.parametrize("dim", [3, 257])
def test_constant_embeddings_score_exactly_chance_in_both_directions(dim):
    same = units(1, dim, dtype=torch.float32)
    pairs = np.stack([np.repeat(np.arange(20), 5), np.arange(100)], 1)
    of_left, of_right = mutual_ranks(same.repeat(20, 1), same.repeat(100, 1), pairs)
    assert of_left.tolist() == [[0, 95, 5]] * 20
    assert of_right.tolist() == [[0, 19, 1]] * 100
    assert hits(of_right, 1) == pytest.approx(np.full(100, 1 / 20))


def test_what_is_not_a_number_is_neither_better_nor_equal():
    left, right = units(4, 3, dtype=torch.float32), units(4, 3, dtype=torch.float32)
    left[1] = torch.nan
    of_left, of_right = mutual_ranks(left, right, np.stack([np.arange(4)] * 2, 1))
    assert of_left.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 1], [0, 0, 1]]
    assert hits(of_right, 1).tolist() == [1.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("few", [0, 1000])
def test_counting_and_sorting_place_answers_alike(monkeypatch, few):
    queries, gallery = units(12, 6, 1, torch.float32), units(90, 6, 2, torch.float32)
    gallery[::5] = gallery[0]
    pairs = make_pairs(12, 90, share=0.6)
    monkeypatch.setattr("lightcrl.metrics.ranks.FEW", few)
    monkeypatch.setattr("lightcrl.metrics.ranks.CHUNK", 5)
    monkeypatch.setattr("lightcrl.metrics.ranks.GALLERY_CHUNK", 32)
    scores = (queries.double() @ gallery.double().T).numpy()
    own = scores[pairs[:, 0], pairs[:, 1]][:, None]
    better = (scores[pairs[:, 0]] > own + TIE).sum(1)
    equal = (np.abs(scores[pairs[:, 0]] - own) <= TIE).sum(1)
    assert np.array_equal(answer_places(queries, gallery, pairs), np.stack([pairs[:, 0], better, equal], 1))


def test_pairs_in_no_order_are_refused():
    with pytest.raises(ShapeError, match="pairs are in no order; expected those of the first query first"):
        ranks(units(2, 3), units(2, 3), np.array([[1, 0], [0, 1]]))


LINKS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=15)


@given(left=LINKS, right=LINKS)
def test_answers_are_all_items_that_share_a_group(left, right):
    answers = {
        item: sorted({other for other, there in right for one, group in left if one == item and group == there})
        for item, _ in left
    }
    answers = {item: found for item, found in answers.items() if found}
    if not answers:
        return
    links = {"a": np.array(left), "b": np.array(right)}
    found = Retrieval(links)._directions["a_to_b"]
    assert found.queries.tolist() == sorted(answers)
    assert found.pairs.tolist() == [[at, item] for at, one in enumerate(sorted(answers)) for item in answers[one]]
    shared = {group for _, group in right}
    groups = [next(group for one, group in left if one == item and group in shared) for item in sorted(answers)]
    assert found.groups.tolist() == groups
