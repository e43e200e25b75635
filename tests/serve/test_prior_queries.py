"""Searches of the server with the embeddings that a prior makes."""

from __future__ import annotations

import pytest

from imagining import imagining
from lightcrl.imaginer import TextPrior
from served import data_url, png, served_with


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with served_with(tmp_path_factory.mktemp("prior"), imagining()) as served:
        yield served


def ask(served, code=200, **asked):
    answer = served.client.post("/search", json=asked)
    assert answer.status_code == code, answer.text
    return answer.json()


def test_texts_are_searched_for_by_what_the_prior_makes(served):
    told = ask(served, text="two dogs", prior=True, k=5)
    made = TextPrior(served.index.embedder).vectors(["two dogs"])
    (expected,) = served.index.search_vectors(made, 5, query="image")
    assert [(hit["id"], hit["score"]) for hit in told["hits"]] == [(hit.id, hit.score) for hit in expected]
    mixed = ask(served, text="two dogs", image=data_url(png(5)), minus={"text": "snow"}, prior=True, k=5)
    assert [hit["score"] for hit in mixed["hits"]] != [hit["score"] for hit in told["hits"]]
    assert ask(served, text="two dogs", k=5)["hits"] != told["hits"]


def test_a_query_without_a_text_and_a_model_without_a_prior_are_refused(served, shared):
    assert "has no item of 'text'" in str(ask(served, 400, like="t0", prior=True))
    assert "has no prior; train one" in str(ask(shared, 400, text="two dogs", prior=True))
