"""The example of an API client as an encoder, against a small server that counts, refuses and limits."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from examples.embedding_api import EmbeddingAPI, RateLimit

from lightcrl.data.base import text_item
from lightcrl.encoders import EncoderSpec, load_encoder
from lightcrl.errors import EncoderError, ItemError
from lightcrl.features import encode_items


class Server(ThreadingHTTPServer):
    """Gives the length of a text and its first letter as its vector; the next answers may be refusals."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[list[str]] = []
        self.refusals: list[int] = []
        self.keys: set[str | None] = set()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.keys.add(self.headers["Authorization"])
        status = self.server.refusals.pop(0) if self.server.refusals else 200
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0.01")
        self.end_headers()
        if status == 200:
            self.server.asked.append(body["input"])
            data = [
                {"index": place, "embedding": [len(text), ord(text[0])]} for place, text in enumerate(body["input"])
            ]
            self.wfile.write(json.dumps({"data": data[::-1]}).encode())

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown(), server.server_close(), thread.join()


def options(server: Server, folder: object) -> dict[str, object]:
    url = f"http://127.0.0.1:{server.server_address[1]}/v1/embeddings"
    return {"model": "m", "dim": 2, "url": url, "cache": f"{folder}/c.db", "per_minute": 60_000, "batch": 2}


def test_each_text_is_asked_for_once_whatever_the_process(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    spec = EncoderSpec(kind="text", model="examples.embedding_api:EmbeddingAPI", options=options(server, tmp_path))
    texts = ["a dog", "two dogs", "a dog", "cat"]
    for _ in range(2):
        encoder = load_encoder(spec)
        items = [text_item(text, text) for text in texts]
        found = {place: np.asarray(tokens)[0].tolist() for place, tokens in encode_items(encoder, items)}
        assert found == {0: [5, 97], 1: [8, 116], 2: [5, 97], 3: [3, 99]}
    assert sorted(text for part in server.asked for text in part) == ["a dog", "cat", "two dogs"]
    assert max(map(len, server.asked)) == 2
    assert server.keys == {"Bearer secret"}
    assert "secret" not in json.dumps(encoder.describe())
    with pytest.raises(ItemError, match="empty text"):
        encoder.prepare(" ")


def test_a_refusal_for_the_moment_is_tried_again_and_another_is_not(server, tmp_path, monkeypatch):
    given = options(server, tmp_path) | {"key": ""}
    server.refusals = [429, 429]
    assert EmbeddingAPI(**given).encode(["x"]).tolist() == [[1, 120]]
    server.refusals = [401]
    with pytest.raises(EncoderError, match=r"refused 'm' after 1 attempts: HTTP 401"):
        EmbeddingAPI(**given).encode(["y"])
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(EncoderError, match="set the environment variable OPENAI_API_KEY"):
        EmbeddingAPI(**options(server, tmp_path)).encode(["y"])


def test_calls_keep_their_distance(monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    limit = RateLimit(120, clock=lambda: 10.0)
    for _ in range(3):
        limit.wait()
    assert slept == [0.0, 0.5, 1.0]
