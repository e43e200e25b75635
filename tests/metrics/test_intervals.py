"""Ranks, hits and intervals against enumeration of every order that ties may fall into."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightcrl.errors import ShapeError
from lightcrl.metrics.intervals import (
    bootstrap_interval,
    curve_ks,
    exact_at_ends,
    found_within,
    hits,
    mean_interval,
    mean_intervals,
    median_interval,
    median_rank,
    precision_recall,
)
from lightcrl.metrics.ranks import answer_places, ranks
from samples import randn, units


def first_k(places: np.ndarray, ks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall over the first k, from the places of right items."""
    return precision_recall(found_within(places, ks), np.bincount(places[:, 0]), ks)


def pairs(right: list[np.ndarray]) -> np.ndarray:
    """[P, 2] from the right items of every query."""
    return np.array([(query, item) for query, items in enumerate(right) for item in items]).reshape(-1, 2)


def first_places(scores: list[float], right: set[int]) -> list[int]:
    """Place of the first right item (1 is first) in every order that random tie-breaking may give."""
    places = []
    for order in permutations(range(len(scores))):
        ranked = [scores[item] for item in order]
        if ranked == sorted(ranked, reverse=True):
            places.append(next(place for place, item in enumerate(order, 1) if item in right))
    return places


SCORES = st.lists(st.integers(0, 3), min_size=1, max_size=6)


@given(scores=SCORES, data=st.data())
def test_hits_and_ranks_are_the_mean_over_all_orders_of_ties(scores, data):
    right = data.draw(st.sets(st.integers(0, len(scores) - 1), min_size=1))
    query, gallery = torch.tensor([[1.0, 0.0]]), torch.tensor([[float(score), 1.0] for score in scores])
    counts = ranks(query, gallery, pairs([np.array(sorted(right))]))
    places = first_places([float(score) for score in scores], right)
    for k in range(1, len(scores) + 2):
        assert hits(counts, k)[0] == pytest.approx(np.mean([place <= k for place in places]))
    assert median_rank(counts) == pytest.approx(np.mean(places))


@given(scores=SCORES, data=st.data())
def test_the_three_counts_are_those_of_a_loop(scores, data):
    right = data.draw(st.sets(st.integers(0, len(scores) - 1), min_size=1))
    best = max(scores[item] for item in right)
    wrong = [score for item, score in enumerate(scores) if item not in right]
    wanted = [sum(s > best for s in wrong), wrong.count(best), sum(scores[item] == best for item in right)]
    found = ranks(torch.ones(1, 1), torch.tensor(scores).float()[:, None], pairs([np.array(sorted(right))]))
    assert found.tolist() == [wanted]


def make_retrieval(queries: int = 50, gallery: int = 40) -> tuple[torch.Tensor, torch.Tensor, list[np.ndarray]]:
    generator = np.random.default_rng(0)
    positives = [generator.choice(gallery, generator.integers(1, 4), replace=False) for _ in range(queries)]
    return units(queries, 6, 1, torch.float32), units(gallery, 6, 2, torch.float32), positives


def test_recall_of_random_vectors_is_that_of_a_sorted_list():
    queries, gallery, positives = make_retrieval()
    counts = ranks(queries, gallery, pairs(positives))
    order = (queries.double() @ gallery.double().T).argsort(descending=True).tolist()
    first = [min(row.index(item) for item in right) + 1 for row, right in zip(order, positives, strict=True)]
    for k in (1, 5, 10):
        assert hits(counts, k).tolist() == [float(place <= k) for place in first]
    assert median_rank(counts) == np.median(first)


@pytest.mark.parametrize(("chunk", "gallery_chunk"), [(1, 1), (7, 3), (50, 39), (1000, 1000)])
def test_the_size_of_chunks_changes_nothing(monkeypatch, chunk, gallery_chunk):
    queries, gallery, positives = make_retrieval()
    gallery[::5] = gallery[0]  # ties that lie in different chunks
    wanted = ranks(queries, gallery, pairs(positives))
    monkeypatch.setattr("lightcrl.metrics.ranks.CHUNK", chunk)
    monkeypatch.setattr("lightcrl.metrics.ranks.GALLERY_CHUNK", gallery_chunk)
    assert np.array_equal(ranks(queries, gallery, pairs(positives)), wanted)


def test_the_order_of_the_gallery_changes_nothing():
    queries, gallery, positives = make_retrieval()
    gallery[::5] = gallery[0]
    order = torch.randperm(len(gallery), generator=torch.Generator().manual_seed(0))
    place = order.argsort().numpy()
    turned = ranks(queries, gallery[order], pairs([place[right] for right in positives]))
    assert np.array_equal(turned, ranks(queries, gallery, pairs(positives)))


@pytest.mark.parametrize("size", [1, 2, 5, 17, 33, 127, 333])
@pytest.mark.parametrize("dim", [3, 64, 257])
@pytest.mark.parametrize("queries", [1, 5])
def test_constant_embeddings_score_exactly_chance(size, dim, queries):
    same = units(1, dim, seed=size, dtype=torch.float32)
    positives = [np.arange(min(size, 1 + n)) for n in range(queries)]
    counts = ranks(same.repeat(queries, 1), same.repeat(size, 1), pairs(positives))
    for k in (1, 10):
        chance = [1 - np.prod([1 - min(k, size) / (size - i) for i in range(len(r))]) for r in positives]
        np.testing.assert_allclose(hits(counts, k), np.clip(chance, 0, 1), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_vectors_of_any_precision_are_scored_in_float32(dtype):
    queries, gallery, positives = make_retrieval()
    queries, gallery = queries.to(dtype), gallery.to(dtype)
    assert np.array_equal(
        ranks(queries, gallery, pairs(positives)), ranks(queries.float(), gallery.float(), pairs(positives))
    )


def test_perfect_embeddings_score_one_and_the_opposite_zero():
    vectors = units(64, 16, dtype=torch.float32)
    right = [np.array([n]) for n in range(64)]
    assert hits(ranks(vectors, vectors, pairs(right)), 1).tolist() == [1.0] * 64
    assert median_rank(ranks(vectors, vectors, pairs(right))) == 1.0
    assert hits(ranks(-vectors, vectors, pairs(right)), 63).tolist() == [0.0] * 64
    assert median_rank(ranks(-vectors, vectors, pairs(right))) == 64.0


def test_no_hit_is_counted_for_what_is_not_a_number():
    vectors = units(4, 3, dtype=torch.float32)
    right = [np.array([n]) for n in range(4)]
    assert hits(ranks(vectors * float("nan"), vectors, pairs(right)), 1).tolist() == [0.0] * 4


def test_median_rank_by_hand():
    """Ranks 1, 4 and the middle of places 2 and 3."""
    assert median_rank(np.array([[0, 0, 1], [3, 0, 1], [1, 1, 1]])) == 2.5


@pytest.mark.parametrize(
    ("queries", "gallery", "positives", "message"),
    [
        ((2, 3), (4, 5), [[0], [1]], r"widths 3 and 5; expected vectors of equal width"),
        ((2, 3), (4, 3), [[0]], r"a query has no right item in the gallery"),
        ((2, 3), (4, 3), [[0], [1], [2]], r"pairs name query 2 and item 2 of 2 queries and 4 items"),
        ((2, 3), (4, 3), [[0], [4]], r"pairs name query 1 and item 4 of 2 queries and 4 items"),
        ((2, 3), (4, 3), [[0], []], r"a query has no right item in the gallery; leave it out"),
    ],
    ids=["widths", "too few sets", "too many sets", "no such item", "empty set"],
)
def test_sizes_that_disagree_are_refused(queries, gallery, positives, message):
    for function in (ranks, answer_places):
        with pytest.raises(ShapeError, match=message):
            function(torch.zeros(queries), torch.zeros(gallery), pairs([np.array(right) for right in positives]))


# --- curves


@given(scores=SCORES, data=st.data())
def test_precision_and_recall_are_the_mean_over_all_orders_of_ties(scores, data):
    right = data.draw(st.sets(st.integers(0, len(scores) - 1), min_size=1))
    orders = [
        order
        for order in permutations(range(len(scores)))
        if [scores[item] for item in order] == sorted(scores, reverse=True)
    ]
    places = answer_places(torch.ones(1, 1), torch.tensor(scores).float()[:, None], pairs([np.array(sorted(right))]))
    ks = np.arange(1, len(scores) + 1)
    precision, recall = first_k(places, ks)
    for at, k in enumerate(ks):
        found = np.mean([len(right & set(order[:k])) for order in orders])
        assert precision[at] == pytest.approx(found / k)
        assert recall[at] == pytest.approx(found / len(right))


def test_precision_and_recall_of_random_vectors_are_those_of_a_sorted_list():
    queries, gallery, positives = make_retrieval()
    order = (queries.double() @ gallery.double().T).argsort(descending=True).tolist()
    ks = np.arange(1, len(gallery) + 1)
    precision, recall = first_k(answer_places(queries, gallery, pairs(positives)), ks)
    for at, k in enumerate(ks):
        found = np.array([len(set(row[:k]) & set(right)) for row, right in zip(order, positives, strict=True)])
        assert precision[at] == pytest.approx((found / k).mean())
        assert recall[at] == pytest.approx((found / [len(right) for right in positives]).mean())
    assert recall[-1] == 1
    assert precision[-1] == pytest.approx(np.mean([len(right) for right in positives]) / len(gallery))


def test_precision_of_the_first_is_recall_at_one_and_recall_of_single_answers_is_recall_at_k():
    queries, gallery, positives = make_retrieval()
    gallery[::5] = gallery[0]
    precision, _ = first_k(answer_places(queries, gallery, pairs(positives)), np.array([1]))
    assert precision[0] == pytest.approx(hits(ranks(queries, gallery, pairs(positives)), 1).mean())
    single = [right[:1] for right in positives]
    _, recall = first_k(answer_places(queries, gallery, pairs(single)), np.array([1, 3, 10]))
    assert recall == pytest.approx([hits(ranks(queries, gallery, pairs(single)), k).mean() for k in (1, 3, 10)])


@pytest.mark.parametrize(("chunk", "gallery_chunk"), [(1, 1), (7, 3), (50, 39)])
def test_the_size_of_chunks_does_not_move_a_right_item(monkeypatch, chunk, gallery_chunk):
    queries, gallery, positives = make_retrieval()
    gallery[::5] = gallery[0]
    wanted = answer_places(queries, gallery, pairs(positives))
    monkeypatch.setattr("lightcrl.metrics.ranks.CHUNK", chunk)
    monkeypatch.setattr("lightcrl.metrics.ranks.GALLERY_CHUNK", gallery_chunk)
    assert np.array_equal(answer_places(queries, gallery, pairs(positives)), wanted)
    assert wanted.shape == (sum(map(len, positives)), 3)


def test_constant_embeddings_have_the_precision_of_chance_at_every_k():
    same, positives = units(1, 8, dtype=torch.float32), [np.arange(3), np.arange(1)]
    ks = np.array([1, 7, 20])
    precision, recall = first_k(answer_places(same.repeat(2, 1), same.repeat(20, 1), pairs(positives)), ks)
    assert precision == pytest.approx([2 / 20] * 3)
    assert recall == pytest.approx(ks / 20)


def test_the_ks_of_a_curve_begin_with_one_and_end_with_the_gallery():
    assert curve_ks(40).tolist() == list(range(1, 41))
    for size in (41, 1000, 123_456):
        ks = curve_ks(size)
        assert (ks[0], ks[-1]) == (1, size)
        assert 20 < len(ks) <= 40
        assert (np.diff(ks) > 0).all()
    assert curve_ks(1).tolist() == [1]


# --- intervals


def clustered(groups: int, size: int, seed: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Values around 0.5 whose groups lie `spread` apart."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(0.5, spread, groups)
    names = np.repeat(np.arange(groups), size)
    return generator.normal(centres[names], 1.0), names


def test_the_interval_covers_the_true_mean_about_95_times_in_100():
    covered = []
    for trial in range(300):
        values, names = clustered(60, 3, seed=trial)
        low, high = mean_interval(values, names, samples=200, seed=trial)
        covered.append(low <= 0.5 <= high)
    assert 0.91 <= np.mean(covered) <= 0.98


def test_an_interval_blind_to_groups_is_too_narrow():
    values, names = clustered(60, 5, seed=0)
    by_group, naive = (mean_interval(values, owner) for owner in (names, np.arange(len(values))))
    assert by_group[1] - by_group[0] > 1.5 * (naive[1] - naive[0])


def test_the_interval_is_that_of_means_over_drawn_groups():
    """The same draws, spelt out: groups with all their values, one mean a draw."""
    values, names = clustered(7, 2, seed=3)
    values, names = values[:-1], names[:-1]  # groups need not be of one size
    generator = np.random.default_rng(5)
    means = []
    for _ in range(50):
        drawn = generator.integers(0, 7, 7)
        means.append(np.mean(np.concatenate([values[names == group] for group in drawn])))
    wanted = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose(mean_interval(values, names * 10 - 3, samples=50, seed=5), wanted)


def test_the_order_of_values_changes_nothing_but_the_seed_does():
    values, names = clustered(20, 2, seed=1)
    order = np.random.default_rng(0).permutation(len(values))
    assert mean_interval(values, names) == mean_interval(values, names)
    np.testing.assert_allclose(mean_interval(values[order], names[order]), mean_interval(values, names))
    assert mean_interval(values, names, seed=1) != mean_interval(values, names, seed=0)


def test_a_lower_level_is_narrower_and_more_samples_draw_more():
    drawn = []

    def statistic(weights: np.ndarray) -> np.ndarray:
        drawn.append(len(weights))
        assert (weights.sum(1) == 30).all()
        return weights @ np.arange(30) / 30

    wide = bootstrap_interval(statistic, 30, samples=400)
    narrow = bootstrap_interval(statistic, 30, samples=400, level=0.5)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert drawn == [400, 400]


def test_the_exact_interval_holds_where_a_bootstrap_of_hits_alone_would_not():
    """Of 40 groups without a miss, those of a true share at the end of the interval come up once in forty."""
    low, high = exact_at_ends((1.0, 1.0), 1.0, 40)
    assert low**40 == pytest.approx(0.025)
    assert high == 1.0
    assert exact_at_ends((0.0, 0.0), 0.0, 40) == pytest.approx((0.0, 1 - low))
    rng = np.random.default_rng(0)
    drawn = rng.random((20_000, 40)) < low
    assert drawn.all(1).mean() == pytest.approx(0.025, abs=0.004)


def test_values_that_do_not_vary_have_an_interval_of_no_width():
    assert mean_interval(np.ones(10), np.arange(10)) == (1.0, 1.0)


def test_the_interval_narrows_with_the_root_of_the_data():
    widths = []
    for groups in (100, 400):
        low, high = mean_interval(randn(groups).numpy().astype(float), np.arange(groups))
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.25)


def test_the_interval_of_a_median_covers_the_true_one_and_draws_whole_groups():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(150):
        values = generator.exponential(size=80)
        low, high = median_interval(values, np.arange(80), samples=300, seed=trial)
        covered += low <= np.log(2) <= high
    assert 0.88 <= covered / 150 <= 0.99
    # Five copies of every value in one group tell no more than one.
    values = generator.exponential(size=60)
    alone = median_interval(values, np.arange(60))
    copies = median_interval(np.repeat(values, 5), np.repeat(np.arange(60), 5))
    assert copies == pytest.approx(alone, rel=0.15)


def test_the_interval_of_a_median_does_not_depend_on_how_it_is_cut(monkeypatch):
    values, groups = np.random.default_rng(1).random(40), np.arange(40) // 2
    whole = bootstrap_interval(lambda weights: weights.mean(1) * 0 + weights[:, 0], 20, samples=50)
    parts = bootstrap_interval(lambda weights: weights.mean(1) * 0 + weights[:, 0], 20, width=5_000_000, samples=50)
    assert whole == parts
    assert median_interval(values, groups) == median_interval(values[::-1], groups[::-1])


@pytest.mark.parametrize("spread", [1.0, 40.0])
def test_the_median_of_many_values_is_that_of_all_of_them(monkeypatch, spread):
    """Looked for about the middle; where groups are few and far apart, also beyond it."""
    values, groups = clustered(12 if spread > 1 else 300, 10, seed=2, spread=spread)
    wanted = median_interval(values, groups, samples=200)
    monkeypatch.setattr("lightcrl.metrics.intervals.MANY", 50)
    assert median_interval(values, groups, samples=200) == wanted


def test_several_means_have_the_intervals_of_each():
    values, groups = clustered(30, 4, seed=4)
    found = mean_intervals({"one": values, "square": values**2}, groups)
    assert found == {"one": mean_interval(values, groups), "square": mean_interval(values**2, groups)}
