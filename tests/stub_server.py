"""A server that answers as the real one does, out of a few canned items, over the page's real files."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
import urllib.parse
import wave
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import lightcrl

PAGE = Path(lightcrl.__file__).parent / "serve" / "page"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
HOSTILE = "<img src=x onerror=alert(1)>.png"


def drawn(colour: int, size: int = 96) -> bytes:
    """A picture: a gradient in some colour, as PNG."""
    ramp = np.linspace(0, 255, size, dtype=np.uint8)
    layers = [np.tile(ramp, (size, 1)), np.tile(ramp[:, None], (1, size)), np.full((size, size), colour, np.uint8)]
    buffer = io.BytesIO()
    Image.fromarray(np.stack(layers, -1)).save(buffer, "PNG")
    return buffer.getvalue()


def tone() -> bytes:
    """A sound: half a second of 440 Hz, as WAV."""
    samples = np.sin(np.arange(4000) / 8000 * 2 * np.pi * 440) * 9000
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


def an_item(number: int, kind: str, name: str, text: str | None = None, **metadata: Any) -> dict[str, Any]:
    key = f"{kind}/{name}"
    content = None if kind == "text" else f"/items/{urllib.parse.quote(key, safe='')}/content"
    told = {"id": key, "modality": kind, "kind": kind, "path": None if kind == "text" else name, "text": text}
    return {
        **told,
        "score": 0.5 - number / 40,
        "share": 10.0 ** (number / 3 - 4),
        "metadata": metadata,
        "content": content,
    }


def canned() -> list[dict[str, Any]]:
    """Nine items of three kinds; the name and a column of the first are hostile."""
    return [
        an_item(0, "image", HOSTILE, split="<b>train</b>", year=2012),
        *[an_item(n, "image", f"picture {n}.png", split="train", year=2012 + n) for n in range(1, 5)],
        *[
            an_item(n, "text", f"text {n}", f"A dog runs over wet grass, number {n}", split="test", year=2020)
            for n in (5, 6)
        ],
        *[an_item(n, "audio", f"bark {n}.wav", split="test", year=2021) for n in (7, 8)],
    ]


@dataclass
class Stub:
    """What the server has and how it behaves; requests are kept.

    Attributes:
        failure: status and message of every search, if it is to fail.
        slow: words that are answered after a second, with nothing.
        busy: searches that are answered with 429 before one succeeds.
        key: that requests need, if any.
        asked: bodies of POST /search, in order.
        listed: queries of GET /items, in order.
        added: names of files that were added.
        removed: ids that were removed.
    """

    items: list[dict[str, Any]] = field(default_factory=canned)
    contents: dict[str, bytes] = field(default_factory=dict)
    points: list[list[float]] | None = None
    writable: bool = False
    nothing: bool = False
    empty: bool = False
    failure: tuple[int, str] | None = None
    slow: str | None = None
    busy: int = 0
    key: str | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    listed: list[dict[str, str]] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    url: str = ""

    def info(self) -> dict[str, Any]:
        kinds = sorted({item["kind"] for item in self.items})
        years = [item["metadata"]["year"] for item in self.items]
        splits = sorted({item["metadata"]["split"] for item in self.items})
        columns = {
            "split": {"type": "text", "values": splits},
            "year": {"type": "number", "values": [min(years), max(years)]},
        }
        counts = {kind: sum(item["kind"] == kind for item in self.items) for kind in kinds}
        told = {"items": len(self.items), "modalities": {kind: kind for kind in kinds}, "counts": counts}
        return {
            **told,
            "columns": columns,
            "writable": self.writable,
            "model": "dfe",
            "engine": "exact",
            "version": "0",
        }

    def of(self, modality: str | None) -> list[dict[str, Any]]:
        return [item for item in self.items if modality in (None, "", item["modality"])]

    def search(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.asked.append(body)
        if self.slow and self.slow in (part["value"] for part in body.get("text", [])):
            time.sleep(1)
            return 200, {"hits": [], "nothing": False, "seconds": 1.0}
        if self.busy:
            self.busy -= 1
            return 429, error("busy")
        if self.failure:
            return self.failure[0], error(self.failure[1])
        hits = [] if self.empty else self.of(body["modality"])[: body["k"]]
        return 200, {"hits": hits, "nothing": self.nothing, "seconds": 0.0123}

    def listing(self, asked: dict[str, str]) -> tuple[int, Any]:
        self.listed.append(asked)
        items = [] if self.empty else self.of(asked.get("modality"))
        plain = [{name: value for name, value in item.items() if name not in ("score", "share")} for item in items]
        return 200, {"items": plain[: int(asked["limit"])], "total": len(items)}

    def map(self) -> dict[str, Any]:
        kinds = sorted({item["kind"] for item in self.items})
        points = self.points or [[np.cos(n), np.sin(n)] for n in range(len(self.items))]
        columns = {name: [item["metadata"][name] for item in self.items] for name in ("split", "year")}
        numbers = [kinds.index(item["kind"]) for item in self.items]
        ids = [item["id"] for item in self.items]
        return {"points": points, "ids": ids, "modality": numbers, "modalities": kinds, "columns": columns}

    def content(self, item: dict[str, Any]) -> bytes:
        if item["id"] in self.contents:
            return self.contents[item["id"]]
        return tone() if item["kind"] == "audio" else drawn(28 * self.items.index(item))


def error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "DataError"}}


class Handler(BaseHTTPRequestHandler):
    """Routes of the interface."""

    stub: Stub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path, _, asked = self.path.partition("?")
        query = dict(urllib.parse.parse_qsl(asked))
        if path == "/" or path.startswith("/page/"):
            return self.file(PAGE / ("index.html" if path == "/" else path.removeprefix("/page/")))
        if self.stub.key and self.headers["Authorization"] != f"Bearer {self.stub.key}":
            return self.json(401, error("a key is needed"))
        tables = {"/info": self.stub.info, "/map": self.stub.map}
        if path in tables:
            return self.json(200, tables[path]())
        if path == "/items":
            return self.json(*self.stub.listing(query))
        return self.item(path.removeprefix("/items/"))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/search":
            return self.json(*self.stub.search(json.loads(body)))
        names = [part.split(b'filename="')[1].split(b'"')[0].decode() for part in body.split(b"form-data; ")[1:]]
        self.stub.added += names
        return self.json(200, {"added": len(names) - 1, "rejected": [{"source": names[-1], "reason": "no picture"}]})

    def do_DELETE(self) -> None:
        self.stub.removed.append(urllib.parse.unquote(self.path.removeprefix("/items/")))
        return self.json(200, {"removed": 1})

    def item(self, path: str) -> None:
        key, _, content = path.partition("/")
        item = next(item for item in self.stub.items if item["id"] == urllib.parse.unquote(key))
        if content:
            kind = "audio/wav" if item["kind"] == "audio" else "image/png"
            return self.send(200, self.stub.content(item), kind)
        return self.json(200, item)

    def file(self, path: Path) -> None:
        if not path.is_file():
            return self.json(404, error("no such file"))
        return self.send(200, path.read_bytes(), TYPES[path.suffix])

    def json(self, status: int, value: Any) -> None:
        self.send(status, json.dumps(value).encode(), "application/json")

    def send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            self.send_header("Retry-After", "1")
        # Browsers leave when a newer question was asked.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.end_headers()
            self.wfile.write(body)


@contextlib.contextmanager
def serving(stub: Stub) -> Iterator[Stub]:
    """Serve until the block ends; `stub.url` is the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"stub": stub}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_address[1]}/"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
