"""What holds for every engine of an index, with its defaults: the right neighbours, and nothing half done."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from forked import Program
from lightcrl.errors import FilterError, ForeignModelError, QueryError, ShapeError
from lightcrl.index import ENGINES, Index, nearest
from shelves import clustered, make_embedder

DIM, COUNT = 16, 3000
NAMES = [f"item {number}" for number in range(COUNT)]
VECTORS = clustered(COUNT, DIM)
METADATA = [
    {"year": 2000 + number % 25, "split": ("train", "dev")[number % 5 == 0], "note": None if number % 2 else "it's"}
    for number in range(COUNT)
]
MODALITIES = [("text", "image")[number % 3 == 0] for number in range(COUNT)]
QUERIES = clustered(40, DIM, seed=7)


@pytest.fixture(scope="module")
def model():
    return make_embedder(DIM)


def fill(index: Index, numbers: range | list[int]) -> None:
    for modality in ("text", "image"):
        chosen = [number for number in numbers if MODALITIES[number] == modality]
        index.add_vectors(
            [NAMES[number] for number in chosen],
            VECTORS[chosen],
            modality,
            fingerprint=index.fingerprint,
            metadata=[METADATA[number] for number in chosen],
        )


@pytest.fixture(params=list(ENGINES))
def empty(request, model, tmp_path) -> Index:
    return Index.create(tmp_path / "index", model, engine=request.param)


@pytest.fixture(params=list(ENGINES), scope="module")
def full(request, model, tmp_path_factory) -> Index:
    index = Index.create(tmp_path_factory.mktemp(request.param) / "index", model, engine=request.param)
    fill(index, range(COUNT))
    return index


def oracle(queries: np.ndarray, k: int, kept: np.ndarray | None = None) -> list[list[str]]:
    """Names of the nearest items among those kept, exactly, by float16 as they are stored."""
    kept = np.arange(COUNT) if kept is None else np.flatnonzero(kept)
    places, _ = nearest(torch.from_numpy(queries), torch.from_numpy(VECTORS[kept]).half(), k)
    return [[NAMES[kept[place]] for place in row] for row in places.tolist()]


def recall(index: Index, queries: np.ndarray, kept: np.ndarray | None = None, k: int = 10, **given) -> float:
    """Share of the true k nearest that a search gives."""
    hits = index.search_vectors(queries, k, **given)
    wanted = oracle(queries, k, kept)
    assert all(len(row) == len(right) for row, right in zip(hits, wanted, strict=True))
    both = zip(hits, wanted, strict=True)
    return float(np.mean([len({hit.id for hit in row} & set(right)) / len(right) for row, right in both]))


def test_the_neighbours_are_the_right_ones_and_their_scores_exact(full):
    assert recall(full, QUERIES) >= 0.95
    for query, hits in zip(QUERIES, full.search_vectors(QUERIES, 10), strict=True):
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
        stored = VECTORS[[NAMES.index(hit.id) for hit in hits]].astype(np.float16).astype(np.float64)
        np.testing.assert_allclose(scores, stored @ query, atol=1e-6)
        assert [hit.modality for hit in hits] == [MODALITIES[NAMES.index(hit.id)] for hit in hits]


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("year > 2020 and split = 'train'", lambda one: one["year"] > 2020 and one["split"] == "train"),
        ("note = 'it''s' or year in (2001, 2002)", lambda one: one["note"] == "it's" or one["year"] in (2001, 2002)),
        ("note is null", lambda one: one["note"] is None),
        ("year = 2007 and split = 'dev' and note is not null", None),
    ],
)
def test_filters_and_modalities_restrict_the_results(full, where, kept):
    mask = np.array([kept(one) for one in METADATA]) if kept else np.zeros(COUNT, bool)
    if kept is None:
        mask = np.array([one["year"] == 2007 and one["split"] == "dev" and bool(one["note"]) for one in METADATA])
    hits = full.search_vectors(QUERIES[:5], 10, where=where)
    assert all(len(row) == min(10, mask.sum()) for row in hits)
    if mask.any():
        assert recall(full, QUERIES, mask, where=where) >= 0.95
    images = np.array(MODALITIES) == "image"
    assert recall(full, QUERIES, images, modality="image") >= 0.95
    if (mask & images).any():
        assert recall(full, QUERIES, mask & images, modality="image", where=where) >= 0.95


def test_nothing_is_given_where_nothing_fits(full, empty):
    assert full.search_vectors(QUERIES[:2], 3, where="year > 3000") == [[], []]
    assert full.search_vectors(QUERIES[:2], 3, modality="audio") == [[], []]
    assert empty.search_vectors(QUERIES[:2], 3) == [[], []]
    assert full.search_vectors(QUERIES[:0], 3) == []
    assert len(empty) == 0


def test_fewer_items_than_asked_for_are_all_given(empty):
    fill(empty, range(7))
    assert [sorted(hit.id for hit in row) for row in empty.search_vectors(QUERIES[:3], 50)] == [NAMES[:7]] * 3


def test_removed_items_are_not_found_and_compaction_changes_nothing(empty):
    fill(empty, range(600))
    assert empty.remove([NAMES[3], NAMES[4]], where="year >= 2010") == 2 + sum(
        one["year"] >= 2010 for one in METADATA[:600]
    )
    kept = np.zeros(COUNT, bool)
    kept[:600] = [one["year"] < 2010 for one in METADATA[:600]]
    kept[[3, 4]] = False
    assert len(empty) == kept.sum()
    for index in (empty, Index.open(empty.folder)):
        assert recall(index, QUERIES, kept) >= 0.95
    before = empty.search_vectors(QUERIES, 5)
    assert empty.info()["removed"] == 600 - kept.sum()
    empty.compact()
    assert empty.info()["removed"] == 0
    assert empty.search_vectors(QUERIES, 5) == before
    fill(empty, range(600))
    kept[:600] = True
    assert recall(empty, QUERIES, kept) >= 0.95
    with pytest.raises(QueryError, match="no item 'nothing'"):
        empty.remove(["nothing"])


def test_an_item_added_again_with_another_vector_is_replaced(empty):
    fill(empty, range(50))
    done = empty.add_vectors([NAMES[1]], VECTORS[[60]], "image", fingerprint=empty.fingerprint)
    assert (done.added, done.replaced, done.present, len(empty)) == (0, 1, 0, 50)
    hit = empty.search_vectors(VECTORS[[60]], 1)[0][0]
    assert (hit.id, hit.modality) == (NAMES[1], "image")
    assert hit.score == pytest.approx(1, abs=1e-3)
    done = empty.add_vectors([NAMES[1]], VECTORS[[60]], "image", fingerprint=empty.fingerprint, metadata=[{"year": 1}])
    assert (done.added, done.replaced, done.present) == (0, 0, 1)
    assert empty.get(NAMES[1]).metadata["year"] == 1


@pytest.mark.parametrize("name", ['it\'s "quoted"', "ünï→código/🐕.jpg", "a\nb; DROP TABLE items --", "%_'[x]"])
def test_any_text_is_an_id(empty, name):
    empty.add_vectors([name, "other"], VECTORS[:2], "text", fingerprint=empty.fingerprint, metadata=[{name: name}] * 2)
    again = Index.open(empty.folder)
    assert again.search_vectors(VECTORS[:1], 1)[0][0].id == name
    assert again.get(name).metadata == {name: name}
    np.testing.assert_allclose(again.vectors(["other", name]), VECTORS[[1, 0]], atol=1e-3)
    assert again.remove([name]) == 1
    assert [hit.id for hit in again.search_vectors(VECTORS[:1], 5)[0]] == ["other"]


def test_an_index_opened_again_is_the_same(full):
    again = Index.open(full.folder)
    assert len(again) == COUNT
    assert again.search_vectors(QUERIES, 10) == full.search_vectors(QUERIES, 10)
    np.testing.assert_array_equal(again.vectors(NAMES[:70:7]), full.vectors(NAMES[:70:7]))


def test_what_is_not_the_index_s_own_is_refused(full, model, tmp_path):
    other = make_embedder(DIM, seed=1)
    with pytest.raises(ForeignModelError, match="have nothing in common"):
        Index.open(full.folder, other)
    with pytest.raises(ForeignModelError, match=other.fingerprint):
        full.add_vectors(["x"], VECTORS[:1], "text", fingerprint=other.fingerprint)
    with pytest.raises(ForeignModelError, match=other.fingerprint):
        full.search_vectors(QUERIES, fingerprint=other.fingerprint)
    with pytest.raises(ForeignModelError):
        Index.create(full.folder, other, engine=full.manifest["engine"]["name"])
    with pytest.raises(ShapeError, match=r"expected finite ones \[Q, 16\]"):
        full.search_vectors(QUERIES[:, :4])
    with pytest.raises(ShapeError, match="the best 0"):
        full.search_vectors(QUERIES, 0)
    with pytest.raises(ShapeError, match="vector 1 has length 2"):
        full.add_vectors(["x", "y"], VECTORS[:2] * [[1], [2]], "text", fingerprint=full.fingerprint)
    with pytest.raises(FilterError, match="no such column: yaer"):
        full.search_vectors(QUERIES, where="yaer > 1")
    assert len(Index.open(full.folder, model)) == COUNT


READ = """
import sys, time, numpy as np
sys.path[:0] = {path!r}
from lightcrl.index import Index
index, vectors, seen = Index.open({folder!r}), np.load({vectors!r}), 0
print("ready", flush=True)
searches = 0
while True:
    count = len(index)
    hits = index.search_vectors(vectors[:8], 5)
    assert all(len(row) >= min(5, count) or searches == 0 for row in hits), (count, [len(row) for row in hits])
    for query, row in zip(vectors[:8], hits):
        for hit in row:
            number = int(hit.id.removeprefix("item "))
            score = float(vectors[number].astype(np.float16).astype(np.float64) @ query)
            assert abs(score - hit.score) < 1e-5, (hit, score)
    assert count >= seen, (count, seen)
    seen, searches = count, searches + 1
    if count == {last}:
        break
print(searches)
"""


def test_another_process_reads_while_this_one_writes(empty, tmp_path):
    np.save(tmp_path / "vectors.npy", VECTORS)
    script = READ.format(
        path=[entry for entry in sys.path if entry],
        folder=str(empty.folder),
        vectors=str(tmp_path / "vectors.npy"),
        last=900,
    )
    with Program(script) as reader:
        assert reader.stdout.readline() == "ready\n"
        for start in range(0, 900, 30):
            fill(empty, range(start, start + 30))
            if start == 600:
                empty.compact()
            time.sleep(0.02)
        output = reader.stdout.read()
        assert reader.wait() == 0
    assert int(output) > 5


def test_many_threads_read_while_one_writes(empty):
    fill(empty, range(60))
    expected = [hit.score for hit in empty.search_vectors(VECTORS[:30], 1)[7]]

    def read(_: int) -> int:
        for _ in range(20):
            hits = empty.search_vectors(VECTORS[:30], 1)
            assert [row[0].id for row in hits] == NAMES[:30]
            assert [hit.score for hit in hits[7]] == expected
        return len(empty)

    with ThreadPoolExecutor(4) as pool:
        counts = pool.map(read, range(4))
        for start in range(60, 240, 30):
            fill(empty, range(start, start + 30))
        assert all(60 <= count <= 240 for count in counts)
    assert len(empty) == 240


def test_the_engine_has_a_folder_of_its_own(full):
    name = full.manifest["engine"]["name"]
    assert {path.name for path in Path(full.folder).iterdir()} >= {"manifest.json", "catalog.db", name}
