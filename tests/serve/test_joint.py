"""Searches of several clients in one batch: each gets what it would get alone, and its own error."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from lightcrl.errors import LightCRLError, UnknownItemError
from lightcrl.index import Part
from lightcrl.serve.joint import JOINT, Search, search_together
from served import TEXTS


def of_texts(
    *texts: str, k: int = 3, modality: str | None = None, minus: tuple[str, ...] = (), like: str | None = None
):
    """A search for texts of equal weight."""

    def parts(some):
        return [Part(text, 1.0, "text", "text") for text in some]

    given = {"text": parts(texts), "like": [Part(like, 1.0, "like")] if like else []}
    return Search(given, parts(minus), modality, None, k)


SEARCHES = [
    of_texts("two dogs"),
    of_texts("a red car", "by the sea"),
    of_texts("two dogs", k=1),
    of_texts("an old man", modality="image"),
    of_texts("a boat", minus=("the sea",)),
    of_texts("a boat", like="t0"),
]


def encoded(searches, index):
    """The searches with vectors in place of contents."""
    return [
        search.with_vectors({id(part): index.embedder.encode([part.item], "text")[0] for part in search.contents})
        for search in searches
    ]


def test_every_search_of_a_batch_gives_what_it_gives_alone(shared):
    index = shared.index
    together = search_together(index, encoded(SEARCHES, index), shared.service.like)
    for search, outcome in zip(SEARCHES, together, strict=True):
        texts = [part.item for part in search.given["text"]]
        like = [part.item for part in search.given["like"]] or None
        minus = [Part(part.item, 1.0, "text") for part in search.minus] or None
        alone = index.search(texts, like=like, minus=minus, modality=search.modality, k=search.k)
        assert [hit.id for hit in outcome.hits] == [hit.id for hit in alone]
        np.testing.assert_allclose([hit.score for hit in outcome.hits], [hit.score for hit in alone], atol=1e-6)


def test_the_error_of_one_search_is_its_own(shared):
    searches = [of_texts("two dogs"), of_texts("a boat", like="nowhere"), of_texts("a red car")]
    first, second, third = search_together(shared.index, encoded(searches, shared.index), shared.service.like)
    assert isinstance(second, UnknownItemError)
    assert not isinstance(first, LightCRLError)
    assert third.hits[0].id == f"t{TEXTS.index('a red car')}"


def test_searches_that_wait_share_one_product_while_the_encoder_works_on(serving, monkeypatch):
    served, gate, sizes = serving(batch=8), threading.Event(), []
    service, index = served.service, served.index
    searches = encoded([of_texts(f"{TEXTS[n % 4]} {n}") for n in range(9)], index)
    search_queries = type(index).search_queries

    def counted(self, queries, **given):
        gate.wait(20)
        sizes.append(len(queries))
        return search_queries(self, queries, **given)

    monkeypatch.setattr(type(index), "search_queries", counted)
    futures = [service.finder.submit([search], JOINT) for search in searches]
    # The searches wait at the gate; the encoder does not.
    assert service.batcher.submit(["a dog"], "text").result(20).shape == (1, index.dim)
    assert not any(future.done() for future in futures)
    gate.set()
    assert all(len(future.result(20)[0].hits) == 3 for future in futures)
    assert sum(sizes) == 9
    assert max(sizes) == 8


@pytest.mark.parametrize("batch", [1, 32])
def test_the_answer_has_the_fields_of_its_schema(serving, batch):
    served = serving(batch=batch)
    answer = served.client.post("/search", json={"text": "two dogs", "k": 2})
    assert answer.headers["content-type"] == "application/json"
    value = answer.json()
    schemas = served.client.get("/openapi.json").json()["components"]["schemas"]
    assert set(value) == set(schemas["SearchAnswer"]["properties"])
    assert all(set(hit) == set(schemas["HitAnswer"]["properties"]) for hit in value["hits"])
    assert value["hits"][0]["id"] == "t0"
