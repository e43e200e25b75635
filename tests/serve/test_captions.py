"""Captions from the server: of items, of data URLs, and what it refuses."""

from __future__ import annotations

import pytest
import torch

import lightcrl
from lightcrl.heads.spec import make_head
from lightcrl.heads.state import TrainedHead
from served import TEXTS, data_url, png, served_with
from shelves import make_embedder


@pytest.fixture(scope="module")
def captioning(tmp_path_factory):
    embedder = make_embedder(kinds=("text", "image", "audio"))
    checkpoint = embedder.checkpoint
    options = {"source": "image", "decoder": "retrieval", "neighbours": 4}
    head = make_head("captioning", checkpoint.space, options)
    head.writer.learn(TEXTS, lambda: torch.from_numpy(embedder.encode(TEXTS, "text")))
    checkpoint.heads["captioning"] = TrainedHead.of(head, "captioning", checkpoint.digest, {})
    with served_with(tmp_path_factory.mktemp("captions"), embedder) as served:
        yield served


def ask(served, code=200, **asked):
    answer = served.client.post("/captions", json=asked)
    assert answer.status_code == code, answer.text
    return answer.json()


def test_an_item_is_captioned_as_by_the_library(captioning):
    told = ask(captioning, item="dir/1.png", beams=3)
    captioner = lightcrl.Captioner(captioning.index.embedder)
    (expected,) = captioner.captions([captioning.index.get("dir/1.png").path], beams=3)
    assert [each["text"] for each in told["captions"]] == [each.text for each in expected]
    assert told["caption"] == told["captions"][0]["text"]
    assert told["caption"] in TEXTS
    assert captioning.client.get("/info").json()["heads"] == ["captioning"]


def test_a_picture_of_a_request_is_captioned(captioning):
    assert len(ask(captioning, image=data_url(png(5)), beams=2)["captions"]) == 2


def test_what_cannot_be_captioned_is_refused_with_the_reason(captioning):
    for asked, message in (
        ({}, "found 0 items (none); expected one"),
        ({"item": "t0", "text": "a"}, "found 2 items (text, item)"),
        ({"text": "a dog"}, "the captioner describes 'image'"),
        ({"item": "t0"}, "found content of kind 'text'"),
        ({"item": "dir/1.png", "head": "other"}, "no head 'other'"),
    ):
        assert message in str(ask(captioning, 400, **asked)), asked
    ask(captioning, 404, item="nothing")
    ask(captioning, 422, item="dir/1.png", beams=0)


def test_a_model_without_a_captioner_says_so(shared):
    assert "has no captioner; train one" in str(ask(shared, 400, item="dir/1.png"))
