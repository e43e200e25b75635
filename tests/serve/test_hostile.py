"""Requests of strangers: each is answered with a word of why, none breaks the server or keeps others waiting."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import random
import struct
import threading
import time
import zlib

import httpx
import numpy as np
import pytest
from PIL import Image

from lightcrl.errors import BusyError
from lightcrl.serve.batching import Batcher
from lightcrl.serve.keys import Keys
from lightcrl.serve.limits import Limits
from served import data_url, fill, png, served_with, wav

JSON = {"Content-Type": "application/json"}
SMALL = Limits(body=20_000, seconds=2.0, pixels=10_000, text=100, seconds_of_body=0.2, compared=4)


def bomb(width: int = 50_000, height: int = 50_000) -> bytes:
    """A PNG of a few bytes that says it has billions of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def postscript() -> bytes:
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


def refused(answer: httpx.Response, status: int, words: str, kind: str | None = None) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert words in error["message"]
    assert kind is None or error["type"] == kind
    assert set(error) == {"message", "type"}


@pytest.fixture(scope="module")
def strict(tmp_path_factory, embedder):
    """A server with small limits."""
    with served_with(tmp_path_factory.mktemp("strict"), embedder, limits=SMALL, writable=True) as served:
        yield served


@pytest.mark.parametrize("route", ["duplicates", "outliers"])
def test_more_items_than_the_limit_are_not_compared_with_each_other(strict, route):
    counts, total = strict.index.counts(), len(strict.index)
    assert max(counts.values()) <= SMALL.compared < total
    words = f"{total} items to compare with each other; expected at most 4"
    refused(strict.client.get(f"/{route}"), 413, words, "TooLargeError")
    for chosen in ({"modality": "text"}, {"filter": "modality = 'text'"}):
        assert strict.client.get(f"/{route}", params=chosen).status_code == 200


PARTS = {
    "a picture that ends early": ("image", data_url(png(kind="JPEG")[:300]), 400, "unreadable image", "ItemError"),
    "a bomb": ("image", data_url(bomb()), 413, "pixels", "TooLargeError"),
    "a picture above the limit": ("image", data_url(bomb(101, 100)), 413, "10,100 pixels", "TooLargeError"),
    "PostScript": ("image", data_url(postscript()), 400, "unreadable image", "ItemError"),
    "text for a picture": ("image", data_url(b"hello"), 400, "unreadable image", "ItemError"),
    "nothing for a picture": ("image", data_url(b""), 400, "unreadable image", "ItemError"),
    "no base64": ("image", "data:image/png;base64,@@@@", 400, "not followed by base64", "DataError"),
    "a web address": ("image", "http://169.254.169.254/", 400, "Nothing is fetched", "DataError"),
    "a path": ("image", "/etc/passwd", 400, "Nothing is fetched", "DataError"),
    "a file address": ("image", "file:///etc/passwd", 400, "Nothing is fetched", "DataError"),
    "a sound for a picture": ("image", data_url(wav(0.1), "audio/wav"), 400, "kind 'audio'", "DataError"),
    "a sound too long": ("audio", data_url(wav(2.1, 2000), "audio/wav"), 413, "expected at most 2 s", "TooLargeError"),
    "half a sound": ("audio", data_url(wav()[:30], "audio/wav"), 400, "unreadable sound", "ItemError"),
    "an empty text": ("text", " ", 400, "empty text", "ItemError"),
    "a long text": ("text", "a" * 101, 413, "101 characters", "TooLargeError"),
    "an unknown item": ("like", "../../etc/passwd", 404, "no item", "UnknownItemError"),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_cannot_be_read_is_refused(strict, name):
    kind, content, status, words, error = PARTS[name]
    refused(strict.client.post("/search", json={kind: content}), status, words, error)


BODIES = {
    "too large": (b" " * 20_001, 413, "20,001 bytes"),
    "NaN": (b'{"text": "a", "k": NaN}', 400, "NaN is no number of JSON"),
    "infinite": (b'{"text": {"value": "a", "weight": Infinity}}', 400, "Infinity is no number"),
    "beyond the largest number": (b'{"text": {"value": "a", "weight": 1e999}}', 400, "beyond the largest number"),
    "deep": (b'{"text": ' + b"[" * 9000 + b"]" * 9000 + b"}", 400, "9001 levels deep"),
    "not closed": (b'{"text": "a"', 400, "no JSON"),
    "no UTF-8": (b'{"text": "\xff"}', 400, "no JSON"),
    "a number of 5,000 digits": (b'{"text": "a", "k": ' + b"9" * 5000 + b"}", 400, "no JSON"),
    "half of a pair": (b'{"text": "\\ud800"}', 422, "text"),
    "a list": (b"[]", 422, ""),
    "nothing": (b"", 400, "no JSON"),
    "an unknown key": (b'{"text": "a", "kk": 1}', 422, "kk"),
    "a weight below zero": (b'{"text": {"value": "a", "weight": -1}}', 422, "weight"),
    "too many results": (b'{"text": "a", "k": 1001}', 422, "k"),
    "too many parts": (json.dumps({"text": ["a"] * 32, "minus": {"text": "b"}}).encode(), 400, "33 parts"),
    "no question": (b"{}", 400, "nothing is asked"),
    "an unknown modality": (b'{"text": "a", "modality": "smell"}', 400, "no modality 'smell'"),
    "no filter": (b'{"text": "a", "filter": "year >"}', 400, "cannot be used"),
    "a filter that changes": (b'{"text": "a", "filter": "1); DROP TABLE items; --"}', 400, "cannot be used"),
    "a filter that reads another table": (b'{"text": "a", "filter": "1 in (select value from state)"}', 400, "state"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_question_is_refused(strict, name):
    body, status, words = BODIES[name]
    refused(strict.client.post("/search", content=body, headers=JSON), status, words)


def test_a_body_of_unknown_length_is_read_no_further_than_the_limit(strict):
    sent = []

    def parts():
        for _ in range(100):
            sent.append(1)
            yield b" " * 10_000

    refused(strict.client.post("/search", content=parts(), headers=JSON), 413, "expected at most 20,000")


@pytest.mark.parametrize("kind", ["text/plain", "text/html", "multipart/form-data; boundary=x", ""])
def test_other_types_of_bodies_are_refused(strict, kind):
    refused(
        strict.client.post("/search", content=b"{}", headers={"Content-Type": kind}), 415, "expected application/json"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"--x",
        b"--x\r\n\r\n",
        b"--x\r\n[]--x--\r\n",
        b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\nhello\r\n--x--\r\n',
    ],
)
def test_broken_forms_are_refused(strict, content):
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = strict.client.post("/items", content=content, headers=headers)
    assert answer.status_code == 400, answer.text
    assert (
        strict.client.post("/items", content=content, headers={"Content-Type": "multipart/form-data"}).status_code
        == 400
    )


@pytest.mark.parametrize(
    "metadata", [{"a\0b": 1}, {"": 1}, {f"c{n}": n for n in range(65)}, {"a": [1]}, {"a" * 65: 1}, [1]], ids=str
)
def test_metadata_that_no_table_holds_is_refused(strict, metadata):
    answer = strict.client.post("/items", json={"items": [{"text": "a", "metadata": metadata}]})
    refused(answer, 400, "items.0.metadata")


def test_columns_do_not_grow_without_end(strict):
    codes = []
    for start in range(0, 520, 60):
        metadata = {f"grown{start + n}": n for n in range(60)}
        codes.append(strict.client.post("/items", json={"items": [{"text": "a", "metadata": metadata}]}).status_code)
    assert codes == [200] * 8 + [400]
    assert strict.client.get("/info").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/items/..%2F..%2F..%2Fetc%2Fpasswd/content",
        "/items/%2Fetc%2Fpasswd/content",
        "/items/%00/content",
        "/items/%ff%fe",
        "/items/" + "a" * 10_000,
        "/page/..%2f..%2fapp.py",
        "/page/%2e%2e/%2e%2e/app.py",
        "/items//",
        "/nothing",
    ],
)
def test_no_path_leads_out(strict, path):
    answer = strict.client.get(path)
    assert answer.status_code == 404
    assert "root:" not in answer.text
    assert "import" not in answer.text


def test_a_link_out_of_the_indexed_folder_is_not_followed(serving):
    served = serving()
    secret = served.folder / "secret.png"
    secret.write_bytes(png())
    picture = served.folder / "media" / "0.png"
    picture.unlink()
    picture.symlink_to(secret)
    refused(served.client.get("/items/dir%2F0.png/content"), 404, "leads elsewhere")
    picture.unlink()
    picture.write_text("no picture any more")
    refused(served.client.get("/items/dir%2F0.png/content"), 404, "cannot be read")


@pytest.mark.parametrize(
    "name", ["offset=-1", "limit=0", "limit=x", "offset=1e9", "offset=" + "9" * 30, "filter=", "modality=x"]
)
def test_parameters_out_of_range_are_refused(strict, name):
    answer = strict.client.get(f"/items?{name}")
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["message"]


def test_an_index_is_read_only_unless_said_otherwise(shared):
    for answer in (
        shared.client.post("/items", json={"items": [{"text": "a"}]}),
        shared.client.delete("/items/t0"),
        shared.client.delete("/items", params={"filter": "1"}),
    ):
        refused(answer, 403, "--writable", "ReadOnlyError")
    assert shared.client.get("/info").json()["items"] == 8


def test_pages_of_other_sites_cannot_change_an_index(strict):
    body = {"items": [{"id": "o", "text": "an origin"}]}
    for origin in ("https://elsewhere.example", "null", "http://[", "http://testserver.example"):
        refused(strict.client.post("/items", json=body, headers={"Origin": origin}), 403, "not this server's own")
    assert strict.client.post("/items", json=body, headers={"Origin": "http://testserver"}).status_code == 200


def test_with_keys_everything_but_the_page_and_health_needs_one(serving):
    served = serving(keys=Keys((hashlib.sha256(b"secret-1").digest(), hashlib.sha256(b"secret-2").digest())))
    assert served.client.get("/healthz").status_code == 200
    for path in ("/info", "/items", "/items/t0", "/items/t0/content", "/metrics", "/map", "/duplicates", "/outliers"):
        answer = served.client.get(path)
        refused(answer, 401, "Authorization: Bearer KEY", "AccessError")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert served.client.get(path, headers={"Authorization": "Bearer secret-2"}).status_code == 200
    for wrong in ("Bearer secret-3", "Basic secret-1", "Bearer", "secret-1", "Bearer \xe9"):
        answer = served.client.post("/search", json={"text": "a"}, headers={b"Authorization": wrong.encode("latin-1")})
        refused(answer, 401, "no key", "AccessError")


def test_a_file_of_keys_has_hashes_and_nothing_else(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{hashlib.sha256(b'k').hexdigest()}  -\n\n")
    Keys.read(path).check("Bearer k")
    from lightcrl.errors import DataError

    path.write_text("my-own-key\n")
    with pytest.raises(DataError, match="is no hash") as told:
        Keys.read(path)
    assert "my-own-key" not in str(told.value)
    path.write_text("\n")
    with pytest.raises(DataError, match="has none"):
        Keys.read(path)
    with pytest.raises(DataError, match="cannot be read"):
        Keys.read(tmp_path / "nowhere")


# --- many at once ---


def test_requests_that_wait_are_encoded_together_and_each_gets_its_own():
    gate, sizes = threading.Event(), []

    def encode(items, modality):
        gate.wait(10)
        return np.array([[float(item)] for item in items], dtype=np.float32)

    batcher = Batcher(encode, batch=4, queue=100, observe=lambda count, seconds: sizes.append(count))
    futures = [batcher.submit([n, n + 0.5], "text") for n in range(6)]
    other = batcher.submit([9], "image")
    gate.set()
    assert [future.result(10).ravel().tolist() for future in futures] == [[n, n + 0.5] for n in range(6)]
    assert other.result(10).tolist() == [[9.0]]
    batcher.close()
    assert sum(sizes) == 13
    assert max(sizes) == 4


def test_what_one_client_sends_does_not_spoil_the_batch_of_another():
    from lightcrl.errors import ItemError

    gate = threading.Event()

    def encode(items, modality):
        gate.wait(10)
        if "bad" in items:
            raise ItemError("bad")
        return np.ones((len(items), 1), dtype=np.float32)

    batcher = Batcher(encode, batch=8, queue=100)
    futures = [batcher.submit([text], "text") for text in ("first", "good", "bad", "fine")]
    gate.set()
    assert [future.exception(10) is None for future in futures] == [True, True, False, True]
    batcher.close()


def test_a_full_queue_sends_away_and_says_when_to_come_back(serving):
    served = serving(queue=2, batch=1)
    gate = threading.Event()
    served.service._encoder = SlowEncoder(gate)
    held = [served.service.batcher.submit(["a"], "text")]
    while served.service.batcher.waiting:
        time.sleep(0.001)
    held += [served.service.batcher.submit(["a"], "text") for _ in range(2)]
    with pytest.raises(BusyError):
        served.service.batcher.submit(["a"], "text")
    answer = served.client.post("/search", json={"text": "a"})
    refused(answer, 429, "items wait", "BusyError")
    assert int(answer.headers["retry-after"]) >= 1
    # What needs no encoder goes on.
    assert served.client.post("/search", json={"like": "t0"}).status_code == 200
    gate.set()
    assert all(future.result(10).shape == (1, 16) for future in held)


class SlowEncoder:
    """Waits for a gate."""

    def __init__(self, gate: threading.Event) -> None:
        self.gate = gate

    def encode(self, items, modality):
        self.gate.wait(10)
        return np.full((len(items), 16), 0.25, dtype=np.float32)


def test_before_it_is_ready_a_server_says_so(tmp_path, embedder):
    from starlette.testclient import TestClient

    from lightcrl.serve.app import make_app
    from lightcrl.serve.service import Service, Settings

    gate, told = threading.Event(), []
    encoder = SlowEncoder(gate)
    service = Service(fill(tmp_path, embedder), Settings(encoder=lambda: encoder))
    with TestClient(make_app(service, told.append)) as client:
        for path in ("/readyz", "/info"):
            answer = client.get(path)
            refused(answer, 503, "warming up", "NotReadyError")
            assert answer.headers["retry-after"] == "2"
        assert client.get("/healthz").status_code == 200
        gate.set()

    def broken():
        raise OSError("no weights")

    service = Service(fill(tmp_path, embedder), Settings(encoder=broken))
    with TestClient(make_app(service, told.append)) as client:
        while not told:
            pass
        refused(client.get("/readyz"), 503, "no weights")
    assert str(told[0]) == "no weights"


def test_random_bytes_and_pictures_never_break_the_server(strict):
    """With LIGHTCRL_HOSTILE=10000, as many as that."""
    rng = random.Random(0)
    formats = [png(1, kind=kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")] + [wav(0.02)]
    for _ in range(int(os.environ.get("LIGHTCRL_HOSTILE", "60"))):
        data = bytearray(rng.choice(formats))
        for _ in range(rng.randint(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        del data[rng.randrange(len(data)) :: rng.choice([1, len(data), len(data)])]
        kind = "audio" if data[:4] == b"RIFF" and data[8:12] == b"WAVE" else "image"
        media = "audio/wav" if kind == "audio" else "image/png"
        answer = strict.client.post("/search", json={kind: data_url(bytes(data), media), "k": 1})
        assert answer.status_code in (200, 400, 413), answer.text
        body = bytearray(b'{"text": [{"value": "two dogs", "weight": 1.0}], "filter": "year > 2020", "k": 3}')
        for _ in range(rng.randint(1, 5)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        answer = strict.client.post("/search", content=bytes(body), headers=JSON)
        assert answer.status_code in (200, 400, 404, 413, 422), (bytes(body), answer.text)


def test_pillow_s_own_readers_are_those_that_are_listed():
    Image.init()
    from lightcrl.serve.limits import FORMATS

    assert set(FORMATS) <= set(Image.OPEN)
    assert not {"EPS", "PDF", "WMF", "FPX"} & set(FORMATS)


def test_a_body_that_never_comes_is_given_up():
    from lightcrl.errors import SlowRequestError
    from lightcrl.serve.limits import read_body

    async def never():
        yield b"{"
        await asyncio.sleep(60)

    with pytest.raises(SlowRequestError, match="1 bytes had come"):
        asyncio.run(read_body(never(), None, SMALL))


def test_a_header_that_lies_about_a_sound_is_not_believed():
    from lightcrl.errors import TooLargeError
    from lightcrl.serve.limits import read_sound

    data = bytearray(wav(1.0))
    data[40:44] = struct.pack("<I", 2**31 - 1)
    samples, rate = read_sound(bytes(data), Limits())
    assert (len(samples), rate) == (8000, 8000)
    with pytest.raises(TooLargeError, match=r"longer than 0\.5 s"):
        read_sound(wav(1.0), Limits(seconds=0.5))
    assert io.BytesIO(data).getvalue() != wav(1.0)
