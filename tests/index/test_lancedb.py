"""The approximate indexes of the engine `lancedb`, its options, and what they refuse."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from buckets import object_store
from lightcrl.errors import StoreError, UnknownNameError
from lightcrl.index import ENGINES, Index, nearest
from lightcrl.index.lancedb import KINDS
from shelves import clustered, make_embedder

DIM, COUNT = 16, 2000
VECTORS = clustered(COUNT, DIM)
QUERIES = clustered(50, DIM, seed=7)


def recall(index: Index) -> float:
    places, _ = nearest(torch.from_numpy(QUERIES), torch.from_numpy(VECTORS).half(), 10)
    hits = index.search_vectors(QUERIES, 10)
    both = zip(hits, places.tolist(), strict=True)
    return float(np.mean([len({int(hit.id) for hit in row} & set(right)) / 10 for row, right in both]))


def make(folder, **options) -> Index:
    index = Index.create(folder, make_embedder(DIM), engine="lancedb", options=options)
    index.add_vectors(list(map(str, range(COUNT))), VECTORS, "text", fingerprint=index.fingerprint)
    return index


def indexes(index: Index) -> dict[str, tuple[int, int]]:
    """By kind, how many rows are in LanceDB's own index of the vectors, and how many are not yet."""
    import lancedb

    table = lancedb.connect(str(index.folder / "lancedb")).open_table("items")
    return {
        found.index_type: (found.num_indexed_rows, found.num_unindexed_rows)
        for found in table.list_indices()
        if "vector" in found.columns
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_index_is_made_and_finds_the_neighbours(tmp_path, kind):
    # What keeps a byte for several numbers has to look at more candidates exactly.
    index = make(tmp_path, index=kind, least=500, refine=20 if kind.endswith(("pq", "rq")) else 5)
    assert {name.lower() for name in indexes(index)} == {kind.replace("_", "")}
    assert recall(index) >= 0.95
    assert recall(Index.open(tmp_path)) >= 0.95


def test_few_items_are_searched_without_an_index_and_more_are_taken_into_it(tmp_path):
    index = make(tmp_path, least=2100)
    assert indexes(index) == {}
    assert recall(index) == 1.0
    more = clustered(200, DIM, seed=3)
    index.add_vectors([f"more {n}" for n in range(200)], more, "image", fingerprint=index.fingerprint)
    assert indexes(index) == {"IvfRq": (2200, 0)}
    assert [row[0].id for row in index.search_vectors(more[:20], 1)] == [f"more {n}" for n in range(20)]
    assert [row[0].id for row in index.search_vectors(more[:2], 1, modality="text")] != ["more 0", "more 1"]


def test_fewer_probes_find_less(tmp_path):
    exact = make(tmp_path / "all", index="ivf_flat", least=500, partitions=40, probes=40)
    few = make(tmp_path / "few", index="ivf_flat", least=500, partitions=40, probes=1)
    assert recall(exact) == 1.0
    assert 0.3 < recall(few) < 1.0


def test_many_allowed_items_are_found_among_more_results(tmp_path, monkeypatch):
    index = make(tmp_path)
    listed = index.search_vectors(QUERIES, 10, where="id % 7 = 3 or cast(id as integer) > 1500")
    monkeypatch.setattr("lightcrl.index.lancedb.LISTED", 0)
    assert index.search_vectors(QUERIES, 10, where="id % 7 = 3 or cast(id as integer) > 1500") == listed
    assert index.search_vectors(QUERIES, 10, where="cast(id as integer) < 4") == [
        [hit for hit in row if int(hit.id) < 4] for row in index.search_vectors(QUERIES, COUNT)
    ]


def test_unknown_options_are_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(UnknownNameError, match=r"'prbes'.*'probes'"):
        make(tmp_path, prbes=3)
    with pytest.raises(UnknownNameError, match="index of engine 'lancedb' 'hnsw'"):
        make(tmp_path, index="hnsw")
    make(tmp_path, probes=3)
    with pytest.raises(StoreError, match="has the engine"):
        Index.create(tmp_path, make_embedder(DIM), engine="exact")


def test_vectors_may_lie_in_an_object_store(tmp_path, monkeypatch):
    with object_store("bucket") as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT", endpoint)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        index = make(tmp_path, uri="s3://bucket/photos")
        assert not (tmp_path / "lancedb").exists()
        assert recall(Index.open(tmp_path)) == 1.0
        nearest_to_three = [hit.id for hit in index.search_vectors(VECTORS[3:4], 2)[0]]
        index.remove(["3"])
        assert index.search_vectors(VECTORS[3:4], 1)[0][0].id == nearest_to_three[1]


@pytest.mark.parametrize("stored", [pa.float16(), pa.float32()], ids=str)
def test_the_column_is_float32_and_tables_of_float16_grow_as_they_are(tmp_path, stored):
    """Version 0.1 stored float16, which LanceDB clusters ten times as slowly."""
    import lancedb

    engine = ENGINES.load("lancedb")(tmp_path, DIM, "float16", {"least": 500, "refine": 20})
    token, database = engine.create(), lancedb.connect(str(tmp_path / "lancedb"))
    if stored == pa.float16():
        fields = [("number", pa.int64()), ("modality", pa.string()), ("vector", pa.list_(stored, DIM))]
        token = {"version": database.create_table("items", schema=pa.schema(fields), mode="overwrite").version}
    for start in range(0, COUNT, 500):
        token = engine.append(token, np.arange(start, start + 500), VECTORS[start : start + 500], ["text"] * 500)
    token = engine.settle(token)
    assert database.open_table("items").schema.field("vector").type.value_type == stored
    view = engine.open(token, np.zeros(0, np.int64))
    rounded = VECTORS.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(view.vectors(np.arange(COUNT)), rounded)
    numbers, scores = view.search(QUERIES[:4], 5, None)
    exact = (rounded[numbers].astype(np.float64) * QUERIES[:4, None]).sum(-1).astype(np.float32)
    np.testing.assert_array_equal(scores, exact)
