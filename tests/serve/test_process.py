"""The command as a user starts it: a process that is ready, answers, stops, and loses nothing when killed."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import pytest
from typer.testing import CliRunner

from forked import COMMAND, Program
from lightcrl.cli import app
from lightcrl.index import Index
from served import TEXTS, data_url, png, wait_until_ready

SECONDS = 120.0


@pytest.fixture(scope="module")
def model(tmp_path_factory, embedder):
    """A checkpoint, and an index that knows where it lies."""
    folder = tmp_path_factory.mktemp("model")
    embedder.checkpoint.save(folder / "model")
    index = Index.create(folder / "index", folder / "model")
    index.add([index.entry(text, "text", f"t{n}", {"year": 2018 + n}) for n, text in enumerate(TEXTS)])
    return folder


@contextmanager
def started(*words: object):
    """The command in a process of its own, on a free port; `get`, `post`, `process`."""
    with Program(COMMAND, "serve", *words, "--port", "0", COLUMNS="200") as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if address := re.search(r"http://\S+", line):
                break
        else:
            pytest.fail("".join(lines) + process.stderr.read())
        with httpx.Client(base_url=address[0], timeout=SECONDS) as client:
            wait_until_ready(client.get, SECONDS)
            yield SimpleNamespace(client=client, process=process, address=address[0], said="".join(lines))


def test_a_server_starts_answers_and_stops_when_told_to(model):
    with started(model / "index") as server:
        assert "4 items, read only" in server.said
        hits = server.client.post("/search", json={"text": "two dogs", "k": 1}).json()["hits"]
        assert hits[0]["id"] == "t0"
        # Clients that say nothing, or half of something, keep nobody waiting.
        host, port = server.address.removeprefix("http://").split(":")
        idle = [socket.create_connection((host, int(port))) for _ in range(20)]
        for number, connection in enumerate(idle):
            if number % 2:
                connection.sendall(b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
                connection.sendall(b"Content-Length: 100\r\n\r\n{")
        begun = time.monotonic()
        assert server.client.post("/search", json={"text": "a boat by the sea"}).status_code == 200
        assert time.monotonic() - begun < 10
        for connection in idle:
            connection.close()
        server.client.close()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0


def test_what_was_acknowledged_is_there_after_a_kill(model, tmp_path, embedder):
    index = Index.create(tmp_path / "index", model / "model")
    acknowledged, asked = [], []
    with started(index.folder, "--writable") as server:

        def post() -> None:
            for number in range(100_000):
                items = [
                    {"id": f"n{number}", "text": f"number {number}"},
                    {"id": f"p{number}", "data": data_url(png(number))},
                ]
                asked.append(number)
                try:
                    answer = server.client.post("/items", json={"items": items})
                except httpx.HTTPError:
                    return
                assert answer.json()["added"] == 2, answer.text
                acknowledged.append(number)

        thread = threading.Thread(target=post)
        thread.start()
        while len(acknowledged) < 5:
            time.sleep(0.01)
        server.process.kill()
        thread.join(SECONDS)
    with started(index.folder) as server:
        ids = {item["id"] for item in server.client.get("/items", params={"limit": 1000}).json()["items"]}
        assert {f"{kind}{number}" for kind in "np" for number in acknowledged} <= ids
        # A request is there as a whole or not at all.
        assert all((f"n{number}" in ids) == (f"p{number}" in ids) for number in asked)
        for number in acknowledged:
            assert server.client.get(f"/items/p{number}/content").status_code == 200
            hits = server.client.post("/search", json={"text": f"number {number}", "k": 1}).json()["hits"]
            assert hits[0]["score"] == pytest.approx(1.0, abs=2e-3)


def call(*words: object) -> SimpleNamespace:
    return CliRunner().invoke(app, ["serve", *map(str, words)], env={"COLUMNS": "200"})


def test_what_cannot_be_served_is_said_before_anything_is(model, tmp_path):
    told = call(tmp_path)
    assert (told.exit_code, "no index in" in told.output) == (1, True)
    told = call(model / "index", "--writable", "--host", "0.0.0.0")
    assert (told.exit_code, "--api-key-file" in told.output) == (1, True)
    told = call(model / "index", "--encoders", "tensorflow")
    assert (told.exit_code, "onnx=FOLDER" in told.output) == (2, True)
    told = call(model / "index", "--encoders", f"onnx={tmp_path}")
    assert (told.exit_code, "no export in" in told.output) == (1, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        told = call(model / "index", "--port", taken.getsockname()[1])
    assert (told.exit_code, "cannot listen on" in told.output) == (1, True)


def test_a_model_that_is_gone_ends_the_server_with_a_word(tmp_path, embedder):
    embedder.checkpoint.save(tmp_path / "model")
    index = Index.create(tmp_path / "index", tmp_path / "model")
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    with Program(COMMAND, "serve", index.folder, "--port", "0") as process:
        assert process.wait(SECONDS) == 1
        error = process.stderr.read()
    assert "error: " in error
    assert "Traceback" not in error


def test_a_run_s_folder_is_indexed_from_its_stores_and_served(small_run, tmp_path, monkeypatch):
    from lightcrl.commands import serve

    run = shutil.copytree(small_run.run, tmp_path / "run")
    taken = []
    monkeypatch.setattr(serve, "_run", lambda service, bound: (taken.append(service), bound.close()))
    told = call(run, "--port", "0")
    assert told.exit_code == 0, told.output
    assert "0 encoded" in " ".join(told.output.split())
    (service,) = taken
    assert service.index.counts() == {"image": 90, "text": 270}
    assert service.index.manifest["model"]["place"] == str(run)
    call(run, "--port", "0")
    assert len(taken[1].index) == 360
    for one in taken:
        one.stop()


def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_head():
    """Connections inherit TCP_NODELAY; without it, every request of a kept connection took 40 ms longer."""
    from lightcrl.commands.serve import _bind

    with _bind("127.0.0.1", 0) as bound, socket.create_connection(bound.getsockname()):
        accepted, _ = bound.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
