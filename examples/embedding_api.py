"""Embeddings of a web API as an encoder of your own: batches, a rate limit, retries, and a cache on disk.

    [encoders.text]
    kind = "text"
    model = "examples.embedding_api:EmbeddingAPI"
    batch_size = 256
    options = { model = "text-embedding-3-small", dim = 512, cache = "embeddings.db", per_minute = 500 }

The address speaks the protocol of OpenAI's `/v1/embeddings`, as do Azure, Mistral, vLLM, Ollama, LM Studio and many
others; set `url`. The key is read from the environment and is part of neither recipe, checkpoint nor fingerprint. Every
text is paid once: answers are kept in a SQLite file, which several processes may share.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl.errors import EncoderError, ItemError

URL = "https://api.openai.com/v1/embeddings"
ATTEMPTS = 6
"""Number of attempts at a request that the server refuses for the moment."""
PASSING = (408, 409, 429, 500, 502, 503, 504)
"""HTTP statuses that may pass; the wait doubles with every attempt unless the server states it."""


class EmbeddingAPI:
    """A client with `encode(texts) -> [B, D]`, which is all that an encoder of your own needs.

    Args:
        model: name of the model at the server.
        dim: D, width of a vector; it is asked for as `dimensions`.
        url: address of the endpoint.
        key: name of the environment variable with the key; an empty name sends none.
        cache: SQLite file of the answers.
        per_minute: greatest number of requests per minute.
        batch: greatest number of texts per request.
        timeout: seconds to wait for an answer.

    Raises:
        EncoderError: the key is missing, or the server refuses a request.
    """

    def __init__(
        self,
        model: str,
        dim: int,
        url: str = URL,
        key: str = "OPENAI_API_KEY",
        cache: str = "embeddings.db",
        per_minute: float = 500,
        batch: int = 256,
        timeout: float = 60.0,
    ) -> None:
        self.model, self.dim, self.url, self.key = model, dim, url, key
        self.batch, self.timeout = batch, timeout
        self.cache, self.limit = Cache(Path(cache).expanduser()), RateLimit(per_minute)

    @property
    def fingerprint(self) -> str:
        """The model and the width: the server's address may change without another embedding."""
        return f"{self.model}/{self.dim}"

    def prepare(self, raw: Any) -> str:
        """Return the text; runs in several threads, and costs nothing yet."""
        if not isinstance(raw, str) or not raw.strip():
            raise ItemError("empty text")
        return raw

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return vectors [B, D] float32: from the cache, and from the server for texts that are not in it."""
        kept = self.cache.get(self.fingerprint, texts)
        missing = [text for text in dict.fromkeys(texts) if text not in kept]
        for start in range(0, len(missing), self.batch):
            part = missing[start : start + self.batch]
            vectors = dict(zip(part, self._ask(part), strict=True))
            self.cache.put(self.fingerprint, vectors)
            kept |= vectors
        return np.stack([kept[text] for text in texts])

    def _ask(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        body = json.dumps({"model": self.model, "input": list(texts), "dimensions": self.dim}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        if self.key:
            if not (secret := os.environ.get(self.key)):
                raise EncoderError(f"no key for {self.url}: set the environment variable {self.key}.")
            request.add_header("Authorization", f"Bearer {secret}")
        answer = self._send(request)
        if len(answer["data"]) != len(texts):
            raise EncoderError(f"{self.url} gave {len(answer['data'])} vectors for {len(texts)} texts.")
        for entry in sorted(answer["data"], key=lambda entry: entry["index"]):
            yield np.asarray(entry["embedding"], np.float32)

    def _send(self, request: urllib.request.Request) -> Any:
        wait = 1.0
        for attempt in range(1, ATTEMPTS + 1):
            self.limit.wait()
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                reason, asked = f"HTTP {error.code}: {error.read(300).decode(errors='replace')}", error.headers
                if error.code not in PASSING or attempt == ATTEMPTS:
                    break
                time.sleep(float(asked.get("Retry-After") or wait))
            except OSError as error:  # no connection, or no answer in time
                reason = str(error)
                if attempt == ATTEMPTS:
                    break
                time.sleep(wait)
            wait *= 2
        raise EncoderError(
            f"{self.url} refused {self.model!r} after {attempt} attempts: {reason} Answers so far are in the cache; "
            "the same command goes on from there."
        )


class RateLimit:
    """A limit of calls per minute, shared by the threads of this process."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.gap, self.clock = 60.0 / per_minute, clock
        self._next, self._lock = 0.0, threading.Lock()

    def wait(self) -> None:
        """Sleep until the next call is allowed."""
        with self._lock:
            now = self.clock()
            pause, self._next = max(0.0, self._next - now), max(now, self._next) + self.gap
        time.sleep(pause)


class Cache:
    """Vectors by model and text, in one SQLite file; a killed run loses the current request at most."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with closing(self._open()) as file, file:
            file.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")

    def get(self, model: str, texts: Iterable[str]) -> dict[str, np.ndarray]:
        """Return the vectors that are there, by text."""
        by_key = {digest(model, text): text for text in texts}
        held: dict[str, np.ndarray] = {}
        with closing(self._open()) as file:
            for key, text in by_key.items():
                row = file.execute("SELECT vector FROM vectors WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    held[text] = np.frombuffer(row[0], np.float32)
        return held

    def put(self, model: str, vectors: dict[str, np.ndarray]) -> None:
        """Keep vectors, in one transaction."""
        rows = [(digest(model, text), vector.tobytes()) for text, vector in vectors.items()]
        with closing(self._open()) as file, file:
            file.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=60)


def digest(model: str, text: str) -> bytes:
    return hashlib.blake2b(f"{model}\n{text}".encode(), digest_size=16).digest()
