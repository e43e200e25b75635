"""Near-identical items and items far from everything, planted among others."""

from __future__ import annotations

import numpy as np
import pytest

from lightcrl.errors import QueryError
from lightcrl.index import ENGINES, Index, find_duplicates, find_outliers
from lightcrl.index.structure import choose_threshold, farness, limit_of_outliers
from shelves import clustered, make_embedder

DIM = 16
VECTORS = clustered(400, DIM, clusters=8)


def near(vector: np.ndarray, amount: float, seed: int) -> np.ndarray:
    moved = vector + amount * np.random.default_rng(seed).normal(size=DIM) / DIM**0.5
    return (moved / np.linalg.norm(moved)).astype(np.float32)


@pytest.fixture(params=list(ENGINES))
def index(request, tmp_path) -> Index:
    """Items 0, 1 and 2 have copies; item "far" is like nothing."""
    index = Index.create(tmp_path, make_embedder(DIM), engine=request.param)
    copies = {"0 again": near(VECTORS[0], 0.02, 1), "0 once more": near(VECTORS[0], 0.02, 2), "1 again": VECTORS[1]}
    copies["2 again"] = near(VECTORS[2], 0.01, 3)
    far = -VECTORS.mean(0) / np.linalg.norm(VECTORS.mean(0))
    ids = [*map(str, range(400)), *copies, "far"]
    metadata = [{"old": n < 2} for n in range(len(ids))]
    vectors = np.stack([*VECTORS, *copies.values(), far]).astype(np.float32)
    index.add_vectors(ids, vectors, "image", fingerprint=index.fingerprint, metadata=metadata)
    index.add_vectors(["0 as text"], VECTORS[:1], "text", fingerprint=index.fingerprint)
    return index


def test_planted_copies_are_found_and_no_others(index):
    copies = {one.modality: one for one in find_duplicates(index)}
    assert copies["image"].groups == (("0", "0 again", "0 once more"), ("1", "1 again"), ("2", "2 again"))
    assert 0.9 < copies["image"].threshold < 0.9999
    assert "ordinary distances, 0.5 of 405 items" in copies["image"].reason
    assert copies["text"].groups == ()
    (strict,) = find_duplicates(index, threshold=0.99999, modality="image")
    assert strict.groups == (("1", "1 again"),)
    assert (strict.threshold, strict.reason) == (0.99999, "given")
    assert find_duplicates(index, where="old", modality="image")[0].groups == ()
    assert copies["image"].to_json()["groups"][1] == ("1", "1 again")
    with pytest.raises(QueryError, match="a threshold of 2"):
        find_duplicates(index, threshold=2)


def test_what_is_far_from_everything_comes_first(index):
    far = find_outliers(index, modality="image")
    assert far[0].id == "far"
    assert far[0].farness > far[0].limit
    assert far[0].score < 0.5
    assert len(far) < 10
    assert [one.id for one in find_outliers(index, most=1)] == ["far"]
    assert len(find_outliers(index, most=7, modality="image")) == 7


def test_the_threshold_is_what_ordinary_items_do_not_reach():
    rng = np.random.default_rng(0)
    reached = []
    for _ in range(200):
        ordinary = 1 - np.exp(rng.normal(-1.5, 0.4, 2000))
        value, _ = choose_threshold(np.concatenate([ordinary, np.full(100, 0.995)]))
        assert 0.9 < value < 0.995
        reached.append((ordinary >= value).sum())
    assert 0.02 < np.mean(reached) < 1
    assert choose_threshold(np.full(500, 1.0))[0] == 0.9999
    assert choose_threshold(np.full(5, 0.5))[0] == choose_threshold(np.zeros(0))[0] == 0.9999


def test_farness_and_its_limit_by_hand():
    assert farness(np.array([[0.5, 0.3], [1.0, -np.inf]])).tolist() == pytest.approx([0.6, 0.0])
    assert limit_of_outliers(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == 4 + 3 * 2
    assert farness(np.full((2, 3), -np.inf)).tolist() == [0, 0]


def test_an_empty_index_has_neither(tmp_path):
    index = Index.create(tmp_path, make_embedder(DIM))
    assert find_duplicates(index) == find_outliers(index) == []
    index.add_vectors(["one"], VECTORS[:1], "image", fingerprint=index.fingerprint)
    assert [one.groups for one in find_duplicates(index)] == [()]
    assert find_outliers(index) == []
