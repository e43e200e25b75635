"""Shares of random items, and whether anything matches, against what they are by definition."""

from __future__ import annotations

import numpy as np
import pytest

from lightcrl.index import Index
from lightcrl.index.calibration import ASKED, SAMPLED, Best, Calibration, Sample, measure_tail
from lightcrl.index.outcome import look
from lightcrl.index.sampling import EVERYDAY
from shelves import clustered, make_embedder

DIM = 16
ITEMS = clustered(3000, DIM, seed=1)
QUERIES = clustered(500, DIM, seed=2)


def sample(vectors: np.ndarray, names=None) -> Sample:
    return Sample(vectors, tuple(names or [None] * len(vectors)), "here")


def test_a_share_is_that_of_random_pairs_on_pairs_never_measured():
    tail = measure_tail(sample(QUERIES[:250]), sample(ITEMS[:1000]))
    assert tail.pairs == 250_000
    others = np.sort((QUERIES[250:] @ ITEMS[1000:].T).ravel())
    for score in (0.0, 0.3, 0.6, 0.8):
        true = 1 - np.searchsorted(others, score) / len(others)
        assert tail.shares(np.array([score]))[0] == pytest.approx(true, rel=0.25)
    assert tail.shares(np.array([1.0, -1.0])).tolist() == pytest.approx([1 / 250_000, 1.0])
    shares = tail.shares(np.linspace(-1, 1, 100))
    assert (np.diff(shares) <= 0).all()


def test_items_of_one_group_are_not_random_to_each_other():
    names = [f"g{n}" for n in range(200)]
    vectors = ITEMS[:200]
    alone, together = measure_tail(sample(vectors), sample(vectors)), measure_tail(*[sample(vectors, names)] * 2)
    assert (alone.pairs, together.pairs) == (40_000, 39_800)
    assert alone.scores[0] == pytest.approx(1, abs=1e-5)
    assert together.scores[0] < 0.999
    assert together.few.scores.max() < 0.999 < alone.few.scores.min()


def test_ordinary_queries_are_told_from_those_far_from_everything():
    every = np.sort((QUERIES[:250] @ ITEMS.T).max(1))
    tail = measure_tail(sample(QUERIES[:250]), sample(ITEMS[:500]), Best(3000, every))
    best = (QUERIES[250:] @ ITEMS.T).max(1)
    ordinary = np.array([tail.ordinary(score, 3000) for score in best])
    assert np.mean(ordinary < 0.1) == pytest.approx(0.1, abs=0.06)
    far = np.random.default_rng(0).normal(size=(200, DIM))
    far -= far @ np.linalg.svd(ITEMS[:500])[2][:4].T @ np.linalg.svd(ITEMS[:500])[2][:4]
    far /= np.linalg.norm(far, axis=1, keepdims=True)
    assert np.mean([tail.ordinary(score, 3000) < 0.1 for score in (far @ ITEMS.T).max(1)]) > 0.5
    few = (QUERIES[250:] @ ITEMS[500:1000].T).max(1)
    assert np.mean([tail.ordinary(score, 500) < 0.1 for score in few]) == pytest.approx(0.1, abs=0.06)
    assert tail.ordinary(2.0, 1) == tail.ordinary(2.0, 10**9) == 1.0
    assert tail.ordinary(-1.0, 3000) == 0.0


def test_too_few_are_not_measured_and_what_is_packed_is_unpacked():
    assert measure_tail(sample(QUERIES[:29]), sample(ITEMS)) is None
    assert measure_tail(sample(QUERIES), sample(ITEMS[:29])) is None
    tail = measure_tail(sample(QUERIES), sample(ITEMS), Best(7, np.sort(QUERIES[:, 0])))
    again = Calibration.unpack(Calibration({("text", "image"): tail}, {"image": 7}).pack())
    assert again.items == {"image": 7}
    other = again.tails["text", "image"]
    assert (other.pairs, other.source, other.few.items, other.all.items) == (tail.pairs, "here", 3000, 7)
    for name in ("few", "all"):
        np.testing.assert_array_equal(getattr(other, name).scores, getattr(tail, name).scores)
    np.testing.assert_array_equal(other.scores, tail.scores)
    assert Calibration.unpack({}) is None


def fill(index: Index, count: int, modality: str, first: int = 0) -> None:
    ids = [f"{modality} {n}" for n in range(first, first + count)]
    index.add_vectors(ids, ITEMS[first : first + count], modality, fingerprint=index.fingerprint)


def measured(index: Index) -> dict[tuple[str, str], tuple[int, str]]:
    return {(one["query"], one["item"]): (one["pairs"], one["queries_from"]) for one in index.info()["calibration"]}


def test_an_index_is_calibrated_when_it_is_built_and_when_it_has_doubled(tmp_path):
    index = Index.create(tmp_path, make_embedder(DIM))
    fill(index, 20, "image")
    assert measured(index) == {}
    assert index.search_vectors(QUERIES[:1], 1, query="image")[0][0].share is None
    fill(index, 20, "image", 20)
    first = measured(index)
    assert first == {
        ("image", "image"): (40 * 39, "items of the index"),
        ("text", "image"): (len(EVERYDAY) * 40, "everyday phrases"),
    }
    fill(index, 30, "image", 40)
    assert measured(index) == first
    fill(index, 2500, "image", 70)
    assert measured(index)["text", "image"] == (len(EVERYDAY) * SAMPLED, "everyday phrases")
    assert ASKED * (SAMPLED - 1) <= measured(index)["image", "image"][0] <= ASKED * SAMPLED
    fill(index, 200, "text")
    assert measured(index)["text", "image"] == (200 * SAMPLED, "items of the index")
    hits = index.search_vectors(QUERIES[:20], 3, query="image", modality="image")
    every = np.sort((QUERIES @ ITEMS[:2570].T).ravel())
    for hit in (hit for row in hits for hit in row):
        true = 1 - np.searchsorted(every, hit.score) / len(every)
        assert true < 3e-5 or abs(np.log(hit.share / true)) < np.log(2)
    assert index.search_vectors(QUERIES[:1], 1)[0][0].share is None


def test_results_of_several_modalities_come_in_order_of_their_shares(tmp_path):
    """Texts are nearer to a query than pictures are, and yet a picture that stands out comes first."""
    index = Index.create(tmp_path, make_embedder(DIM, kinds=("text", "image")))
    gap = np.zeros(DIM, np.float32)
    gap[0] = 3.0
    texts = ITEMS[:400] + gap
    pictures = ITEMS[400:800] + 0.0
    pictures[7] = texts[5] + 0.5 * ITEMS[9]
    for modality, vectors in (("text", texts), ("image", pictures)):
        ids = [f"{modality} {n}" for n in range(len(vectors))]
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        index.add_vectors(ids, units, modality, fingerprint=index.fingerprint)
    by_share = index.search(like="text 5", k=20)
    assert by_share[0].id == "image 7"
    assert [hit.share for hit in by_share] == sorted(hit.share for hit in by_share)
    assert {hit.modality for hit in by_share} == {"text", "image"}
    by_score = index.search_vectors(index.vectors(["text 5"]), 21)[0][1:]
    assert {hit.modality for hit in by_score[1:]} == {"text"}
    assert len(by_share) == 20


def test_nothing_matches_is_said_where_nothing_does(tmp_path):
    """Texts of two kinds of words: those of the index, and others."""
    words = ["red", "green", "blue", "dog", "cat", "house", "tree", "small", "large", "old"]
    texts = [f"{a} {b} {c}" for a in words for b in words for c in words[:3]]
    index = Index.create(tmp_path, make_embedder(64, kinds=("text",)))
    index.add([index.entry(text, "text", id=text) for text in texts])
    good = look(index, {"text": "red dog blue"}, where=None, modality=None, k=3)
    assert (good.matches, good.verdict()) == (True, "")
    assert good.hits[0].share < 0.01
    bad = look(index, {"text": "zzzyx qqqwv 1234567"}, where=None, modality=None, k=3)
    assert bad.matches is False
    assert bad.verdict().startswith("nothing here matches: ")
    assert bad.hits[0].share > good.hits[0].share
    none = look(index, {"text": "red dog"}, where="id = 'x'", modality=None, k=3)
    assert (none.matches, none.verdict(), none.to_json()["hits"]) == (False, "nothing fits the filter", [])
