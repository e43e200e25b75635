"""An index gives back what was put in, from memory and from disk, and refuses what is not whole."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lightcrl.errors import ShapeError, StoreError, TornStoreError
from lightcrl.index import VectorIndex, nearest
from samples import units

VECTORS = units(300, 16, seed=1).half()
NAMES = [f"picture {number}" for number in range(300)]


@pytest.mark.parametrize("ids", [NAMES, list(range(1000, 1300)), np.arange(1000, 1300)], ids=["text", "int", "array"])
def test_a_search_gives_the_ids_and_scores_of_the_nearest(ids):
    queries = units(5, 16, seed=2, dtype=torch.float32).numpy()
    found = VectorIndex(VECTORS.numpy(), ids).search(queries, k=4)
    places, scores = nearest(torch.from_numpy(queries), VECTORS, 4)
    assert found.ids == [[ids[place] for place in row] for row in places.tolist()]
    assert np.array_equal(found.scores, scores.numpy())
    assert found.scores.dtype == np.float32


def test_an_item_finds_itself_first_and_k_stops_at_the_size():
    index = VectorIndex(VECTORS[:3], NAMES[:3])
    found = index.search(VECTORS[:3].float(), k=10)
    assert [row[0] for row in found.ids] == NAMES[:3]
    assert [sorted(row) for row in found.ids] == [NAMES[:3]] * 3
    assert (len(index), index.dim) == (3, 16)


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_an_index_on_disk_is_the_one_that_was_saved(tmp_path, memory, dtype):
    index = VectorIndex(VECTORS.to(dtype), NAMES)
    index.save(tmp_path / "index")
    again = VectorIndex.open(tmp_path / "index", memory=memory)
    assert torch.equal(again.vectors, index.vectors)
    assert again.vectors.dtype == dtype
    assert again.ids.equals(index.ids)
    queries = units(7, 16, seed=3)
    assert again.search(queries).ids == index.search(queries).ids
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
        "ids.parquet", "manifest.json", "vectors.npy"
    ]  # fmt: skip


def test_an_index_may_be_saved_over_another_and_over_itself(tmp_path):
    VectorIndex(VECTORS, NAMES).save(tmp_path)
    VectorIndex.open(tmp_path).save(tmp_path)
    assert torch.equal(VectorIndex.open(tmp_path, memory=True).vectors, VECTORS)
    VectorIndex(VECTORS[:2], NAMES[:2]).save(tmp_path)
    assert len(VectorIndex.open(tmp_path, memory=True)) == 2


def test_an_empty_index_finds_nothing(tmp_path):
    VectorIndex(torch.zeros(0, 16), []).save(tmp_path)
    index = VectorIndex.open(tmp_path)
    assert index.search(units(2, 16)).ids == [[], []]


def test_a_save_that_is_killed_leaves_no_index_rather_than_a_mixed_one(tmp_path, monkeypatch):
    VectorIndex(VECTORS, NAMES).save(tmp_path)

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lightcrl.index.vectors.pq.write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        VectorIndex(VECTORS.flip(0), NAMES).save(tmp_path)
    with pytest.raises(StoreError, match=r"no index in .* expected manifest.json, which is written last"):
        VectorIndex.open(tmp_path)


def test_what_is_torn_is_refused(tmp_path):
    VectorIndex(VECTORS, NAMES).save(tmp_path)
    path = tmp_path / "vectors.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(TornStoreError, match=r"vectors.npy has digest \w{32}, expected \w{32}. Save"):
        VectorIndex.open(tmp_path, memory=True)
    path.write_bytes(bytes(content[:-5]))
    with pytest.raises(TornStoreError, match=r"vectors.npy has 9723 bytes, expected 9728"):
        VectorIndex.open(tmp_path)
    path.unlink()
    with pytest.raises(TornStoreError, match=r"vectors.npy is missing, expected 9728 bytes"):
        VectorIndex.open(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(StoreError, match=r"has format 2, this version reads up to 1"):
        VectorIndex.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(TornStoreError, match=r"is not JSON"):
        VectorIndex.open(tmp_path)


@pytest.mark.parametrize(
    ("vectors", "ids", "message"),
    [
        (VECTORS, NAMES[:5], r"\[300, 16\] of torch.float16 with 5 ids"),
        (VECTORS.double(), NAMES, r"torch.float64 .* expected a matrix of float16 or float32"),
        (VECTORS[0], NAMES[:16], r"vectors \[16\] of"),
        (VECTORS[:2], ["a", 1], r"ids are of several kinds"),
        (VECTORS[:2], [0.5, 1.5], r"expected all of them text, or all of them whole numbers"),
        (VECTORS[:2], ["a", None], r"ids are of several kinds"),
        (torch.tensor([[1.0, 0.0], [3.0, 4.0]]), [0, 1], r"vector 1 has length 5, expected 1. Normalise"),
        (torch.tensor([[torch.nan, 0.0]]), [0], r"vector 0 has length nan"),
    ],
    ids=["too few ids", "float64", "one vector", "mixed ids", "fractions", "no id", "long", "not a number"],
)
def test_what_is_no_index_is_refused(vectors, ids, message):
    with pytest.raises(ShapeError, match=message):
        VectorIndex(vectors, ids)
