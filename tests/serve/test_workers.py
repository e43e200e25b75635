"""`lightcrl serve --workers 2`: both answer, a killed one comes back, all stop; and none may change the index."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from failing_workers import fail
from lightcrl.cli import app
from lightcrl.index import Index
from lightcrl.serve.workers import run_workers
from served import TEXTS

SECONDS = 120.0


@pytest.fixture(scope="module")
def index(tmp_path_factory, embedder):
    folder = tmp_path_factory.mktemp("workers")
    embedder.checkpoint.save(folder / "model")
    index = Index.create(folder / "index", folder / "model")
    index.add([index.entry(text, "text", f"t{n}") for n, text in enumerate(TEXTS)])
    return index.folder


@contextmanager
def started(*words: object):
    """The command in a process of its own, on a free port, once it is ready: the process and the address."""
    command = [sys.executable, "-m", "lightcrl", "serve", *map(str, words), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        address = re.search(r"http://\S+", process.stdout.readline())[0]
        end = time.monotonic() + SECONDS
        while status(f"{address}/readyz") != 200:
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.05)
        yield process, address
    finally:
        process.kill()
        process.communicate()


def status(address: str) -> int | None:
    """The status of an answer; None if no worker listens yet, or a killed one had the connection."""
    try:
        return httpx.get(address, timeout=SECONDS).status_code
    except httpx.TransportError:
        return None


def answering(address: str) -> set[int]:
    """Numbers of the workers that answer some new connections."""
    numbers = set()
    for _ in range(40):
        try:
            text = httpx.get(f"{address}/metrics", timeout=SECONDS).text
        except httpx.TransportError:  # the worker was killed with the connection
            continue
        numbers.add(int(float(re.search(r"^lightcrl_worker (\S+)", text, re.M)[1])))
    return numbers


def children(pid: int) -> list[int]:
    """Processes of the workers; multiprocessing has a helper process beside them."""
    numbers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(number) for number in numbers if "spawn_main" in Path(f"/proc/{number}/cmdline").read_text()]


def test_two_workers_answer_and_a_killed_one_comes_back(index):
    with started(index, "--workers", "2") as (process, address):
        pids = children(process.pid)
        assert len(pids) == 2
        end = time.monotonic() + SECONDS
        while answering(address) != {1, 2}:
            assert time.monotonic() < end
        hits = httpx.post(f"{address}/search", json={"text": "two dogs", "k": 1}, timeout=SECONDS).json()["hits"]
        assert hits[0]["id"] == "t0"
        os.kill(pids[0], signal.SIGKILL)
        while pids[0] in (now := children(process.pid)) or len(now) < 2:
            assert time.monotonic() < end
            time.sleep(0.05)
        while status(f"{address}/healthz") != 200:
            assert time.monotonic() < end
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0


def test_several_workers_never_write(index):
    told = CliRunner().invoke(app, ["serve", str(index), "--writable", "--workers", "2"], env={"COLUMNS": "200"})
    assert told.exit_code == 1
    assert "one process changes an index" in " ".join(told.output.split())


def test_a_worker_that_fails_ends_all():
    handlers = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert run_workers(fail, (3,), 2) == 3
    finally:
        for name, handler in handlers.items():
            signal.signal(name, handler)
