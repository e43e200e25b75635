"""Recall of a stream of queries against an index, beside the ranks of the same vectors in memory."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from lightcrl.data.table import TableFile
from lightcrl.errors import EmptyDatasetError
from lightcrl.index import Index, recall
from lightcrl.index.recall import measure_recall
from lightcrl.metrics.intervals import hits
from lightcrl.metrics.ranks import ranks
from shelves import make_embedder, picture

KINDS = {"image": "image", "text": "text"}
COUNT = 30


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A table of pictures with two captions each, and an index of its first 24 pictures, a copy, and 60 twins."""
    folder, model = tmp_path_factory.mktemp("world"), make_embedder()
    rows = []
    for number in range(COUNT):
        picture(folder / "photos" / f"{number}.png", number)
        rows += [{"image": f"photos/{number}.png", "text": f"{word} picture {number}"} for word in ("a", "the")]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    index = Index.create(folder / "index", model, dtype="float32")
    for number in range(24):
        index.add([index.entry(folder / "photos" / f"{number}.png", "image", metadata={"year": number})])
    shutil.copy(folder / "photos" / "3.png", folder / "copy.png")
    index.add([index.entry(folder / "copy.png", "image", metadata={"year": 3})])
    # More items tie with pictures 0 and 1 than a search returns at first.
    twins = np.repeat(index.vectors(["0.png", "1.png"]), 30, axis=0)
    index.add_vectors([f"twin {n}" for n in range(60)], twins, "image", fingerprint=index.fingerprint)
    return folder, model, index


@pytest.mark.parametrize(("where", "batch"), [(None, 1024), ("year > 2 or id like 'twin%'", 7)])
def test_recall_against_an_index_is_that_of_ranks_in_memory(world, monkeypatch, where, batch):
    folder, model, index = world
    monkeypatch.setattr(recall, "BATCH", batch)
    done = measure_recall(index, TableFile(KINDS, folder / "test.jsonl").rows(), ks=(1, 5, 20), where=where)
    gallery = index.records(where)
    numbers = [n for n in range(24) if where is None or n > 2]
    right = [
        [place for place, item in enumerate(gallery) if item.id in (f"{n}.png", *["copy.png"] * (n == 3))]
        for n in numbers
    ]
    pairs = np.array(
        [[2 * at + caption, place] for at, some in enumerate(right) for caption in (0, 1) for place in some]
    )
    pairs = pairs[np.lexsort(pairs.T[::-1])]
    texts = [f"{word} picture {number}" for number in numbers for word in ("a", "the")]
    queries = torch.from_numpy(model.encode(texts, "text"))
    counts = ranks(queries, torch.from_numpy(index.vectors([item.id for item in gallery])), pairs)
    for k in (1, 5, 20):
        assert done.result.metrics[f"text_to_image/recall@{k}"] == hits(counts, k).mean()
    assert 0 < done.result.metrics["text_to_image/recall@20"] < 1
    left = 2 * (COUNT - len(numbers))
    assert done.result.counts == {
        "text_to_image/queries": len(texts), "text_to_image/gallery": len(gallery), "text_to_image/unanswered": left
    }  # fmt: skip
    low, high = done.result.interval["mean_recall@1"]
    assert low <= done.result.metrics["mean_recall@1"] <= high


def test_an_index_without_an_answer_is_refused(world, tmp_path):
    folder, model, _ = world
    empty = Index.create(tmp_path, model)
    empty.add([empty.entry("something else", "text")])
    with pytest.raises(
        EmptyDatasetError, match="holds no answer to any query of the data; expected items of its groups"
    ):
        measure_recall(empty, TableFile(KINDS, folder / "test.jsonl").rows())
