"""The exact engine sketches its rows from a number on, as they come, go and are compacted; no result changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lightcrl.index import exact, nearest
from lightcrl.index.exact import Exact
from shelves import clustered

DIM = 256
NONE = np.zeros(0, np.int64)


def spread(count: int, seed: int) -> np.ndarray:
    """Unit vectors [count, DIM] near few directions, float16 as they are stored."""
    directions = np.linalg.qr(np.random.default_rng(50).normal(size=(DIM, 16)))[0].T
    vectors = clustered(count, 16, seed=seed) @ directions
    vectors += 0.1 / DIM**0.5 * np.random.default_rng(seed).normal(size=vectors.shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "exact").iterdir() if path.name.startswith(("basis", "sketch"))}


def added(engine: Exact, token: dict, first: int, vectors: np.ndarray) -> dict:
    return dict(engine.append(token, np.arange(first, first + len(vectors)), vectors, ["image"] * len(vectors)))


def assert_right(engine: Exact, token: dict, vectors: np.ndarray, gone: np.ndarray = NONE) -> None:
    """Single queries find what exact scores alone find."""
    kept = np.setdiff1d(np.arange(len(vectors)), gone)
    view = engine.open(token, gone)
    for query in spread(3, seed=9).astype(np.float32):
        rows, scores = nearest(torch.from_numpy(query[None]), torch.from_numpy(vectors[kept]), 10)
        found, its = view.search(query[None], 10, None)
        assert found.tolist() == kept[rows.numpy()].tolist()
        assert its.tolist() == scores.tolist()


def test_rows_are_sketched_from_the_default_number_on(tmp_path):
    engine, vectors = Exact(tmp_path, DIM, "float16", {}), spread(exact.SKETCHED + 5000, seed=1)
    token = added(engine, engine.create(), 0, vectors[: exact.SKETCHED - 1])
    assert "sketch" not in token
    assert names(tmp_path) == set()
    token = added(engine, token, exact.SKETCHED - 1, vectors[exact.SKETCHED - 1 :])
    assert token["sketch"]["fitted"] == len(vectors)
    codes = engine.open(token, NONE)._codes
    assert codes is not None
    assert codes.sketches is not None
    assert codes.sketches.codes.codes.shape == (len(vectors), 64)
    assert_right(engine, token, vectors)


@pytest.fixture
def engine(tmp_path, monkeypatch) -> Exact:
    """An engine that sketches 300 rows or more."""
    monkeypatch.setattr(exact, "SKETCHED", 300)
    monkeypatch.setattr(exact, "COPIED", 250)
    return Exact(tmp_path, DIM, "float16", {})


def test_rows_come_and_the_basis_is_fitted_again_where_they_have_doubled(engine, tmp_path):
    vectors, token, fitted = spread(1300, seed=2), dict(engine.create()), []
    for first in range(0, 1300, 130):
        token = added(engine, token, first, vectors[first : first + 130])
        fitted.append(token.get("sketch", {"fitted": 0})["fitted"])
        assert_right(engine, token, vectors[: first + 130])
    assert fitted == [0, 0, 390, 390, 390, 780, 780, 780, 780, 780]
    codes = engine.open(token, NONE)._codes
    assert codes is not None
    whole = codes.sketches
    assert whole is not None
    at_once = exact.Codes.of(exact.sketch(torch.from_numpy(vectors), whole.basis).float())
    assert torch.equal(whole.codes.codes, at_once.codes)
    assert whole.codes.error == pytest.approx(at_once.error)
    # What readers of older commits have open stays until the next writer sweeps.
    assert {name for name in names(tmp_path) if "00001.bin" in name.rsplit("-", 1)[1]} != set()
    engine.sweep(token)
    assert names(tmp_path) == {f"{kind}-00001-00002.bin" for kind in ("basis", "sketches", "sketch-scales")}
    assert_right(engine, token, vectors)


def test_a_killed_writer_leaves_nothing_that_counts(engine):
    vectors, others = spread(700, seed=3), spread(700, seed=4)
    token = added(engine, dict(engine.create()), 0, vectors[:400])
    added(engine, token, 400, others[:300])  # its token is never committed, nor that of a new basis
    added(engine, token, 400, others)
    assert_right(engine, token, vectors[:400])
    token = added(engine, token, 400, vectors[400:])
    assert_right(engine, token, vectors)


def test_removed_rows_are_not_found_and_compaction_sketches_those_that_stay(engine, tmp_path):
    vectors = spread(900, seed=5)
    token = added(engine, dict(engine.create()), 0, vectors)
    gone = np.arange(0, 900, 3)
    assert_right(engine, token, vectors, gone)
    compacted = dict(engine.compact(token, gone))
    assert compacted["sketch"]["fitted"] == 500
    kept = np.setdiff1d(np.arange(900), gone)
    engine.sweep(compacted)
    view = engine.open(compacted, NONE)
    assert view.numbers.tolist() == kept.tolist()
    assert_right(engine, compacted, vectors, gone)
    assert len(names(tmp_path)) == 3


def test_an_index_from_before_sketches_gets_them_with_its_next_rows(engine):
    vectors = spread(600, seed=6)
    token = added(engine, dict(engine.create()), 0, vectors[:500])
    del token["sketch"]
    assert_right(engine, token, vectors[:500])
    token = added(engine, token, 500, vectors[500:])
    assert token["sketch"]["fitted"] == 600
    assert_right(engine, token, vectors)


def test_narrow_vectors_get_none(tmp_path, monkeypatch):
    monkeypatch.setattr(exact, "SKETCHED", 10)
    engine = Exact(tmp_path, 64, "float16", {})
    assert "sketch" not in added(engine, dict(engine.create()), 0, clustered(50, 64).astype(np.float16))
