"""The server under many clients: text queries a second and their latency, beside the same server without batches and a
plain FastAPI and faiss script.

    python benchmarks/server.py --folder /tmp/bench                 an index of a million vectors, kept in the folder
    python benchmarks/server.py --folder /tmp/bench --clients 32    one part of it; the index is there already
    python benchmarks/server.py photos.index                        an index of one's own

starts `lightcrl serve` on the loopback interface with `--batch 1` and with `--batch 32`, and `plain_server.py`. 1, 8
and 32 clients ask one text after another, each over a connection of its own. The servers take turns, so that all meet
the same machine. Prints Markdown tables: requests a second, latency, memory, cold start, and the time of encoding and
of searching alone. Needs the extras `serve` and `bench`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

# As `lightcrl` does: threads that spin while they wait take ten times as long on busy cores. All servers inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from lightcrl.checkpoint import Checkpoint
from lightcrl.embedder import Embedder
from lightcrl.encoders import load_encoder
from lightcrl.encoders.base import EncoderSpec
from lightcrl.files.local import write_json
from lightcrl.index import Index
from lightcrl.index.adding import vector_entries
from lightcrl.methods.spec import make_method
from lightcrl.tokens import TokenSpec

DIM, TEXTS, BLOCK = 256, 2000, 50_000
NOISE = 0.7
THINGS = ("a dog", "two children", "an old man", "a red car", "a boat", "a group of people", "a bird", "a woman")
PLACES = ("in the snow", "on a street at night", "by the sea", "in a kitchen with a window", "in front of a house")


def nth_text(number: int) -> str:
    """A text that no other number has."""
    return f"{THINGS[number % 8]} {PLACES[number % 5]}, {number}"


def make_index(folder: Path, encoder: str, items: int) -> Path:
    """An index of vectors around the embeddings of some texts, with a text encoder that is real."""
    spec = EncoderSpec(kind="text", model=encoder)
    loaded = load_encoder(spec)
    tokens = {"text": TokenSpec(loaded.dim, loaded.slots, loaded.sequence)}
    torch.manual_seed(0)
    method = make_method("linear", tokens, {"dim": DIM, "standardise": False}, "info_nce")
    fingerprints = {"text": loaded.fingerprint}
    checkpoint = Checkpoint(
        method, name="linear", loss="info_nce", encoders={"text": spec}, fingerprints=fingerprints, recipe={"name": "b"}
    )
    checkpoint.save(folder / "model")
    index = Index.create(folder / "index", folder / "model")
    centres = Embedder(checkpoint).encode([nth_text(number) for number in range(TEXTS)], "text")
    for start in range(len(index), items, BLOCK):
        rng = np.random.default_rng(start)
        count = min(BLOCK, items - start)
        vectors = centres[rng.integers(0, TEXTS, count)] + NOISE * rng.normal(size=(count, DIM)) / DIM**0.5
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        ids = [str(number) for number in range(start, start + count)]
        index.add(vector_entries(ids, vectors, "text", None, DIM), commit=BLOCK)
    return index.folder


@dataclass
class Server:
    """A running server."""

    name: str
    host: str
    port: int
    start: float
    process: subprocess.Popen[str]

    def memory(self) -> tuple[float, float]:
        """MiB of its own, and MiB of mapped files, which all processes share."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        own, mapped = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024 for name in ("RssAnon", "RssFile"))
        return own, mapped


@contextmanager
def serving(name: str, index: Path) -> Iterator[Server]:
    """One of the servers on a free port, once it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = {
        "batches off": ["-m", "lightcrl", "serve", str(index), "--max-queue", "1000", "--batch", "1"],
        "batches on": ["-m", "lightcrl", "serve", str(index), "--max-queue", "1000"],
        "FastAPI and faiss": [str(Path(__file__).with_name("plain_server.py")), str(index)],
    }[name]
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command, "--port", str(port)], stdout=subprocess.DEVNULL, text=True)
    try:
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/readyz").read()
                break
            except OSError:
                assert process.poll() is None, f"{name} has ended"
                time.sleep(0.1)
        yield Server(name, "127.0.0.1", port, time.perf_counter() - begun, process)
    finally:
        process.terminate()
        process.wait()


async def client(host: str, port: int, texts: list[str], seconds: list[float]) -> None:
    """One text after another over one connection."""
    reader, writer = await asyncio.open_connection(host, port)
    for text in texts:
        body = json.dumps({"text": text, "k": 24}).encode()
        head = (
            f"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        begun = time.perf_counter()
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert answer.startswith("http/1.1 200"), answer
        await reader.readexactly(int(re.search(r"content-length: (\d+)", answer)[1]))
        seconds.append(time.perf_counter() - begun)
    writer.close()


async def measure(server: Server, clients: int, requests: int) -> tuple[float, list[float]]:
    """Requests a second of so many clients, and the seconds of each request."""
    seconds: list[float] = []
    texts = [nth_text(number) for number in range(requests)]
    begun = time.perf_counter()
    await asyncio.gather(*(client(server.host, server.port, texts[n::clients], seconds) for n in range(clients)))
    return requests / (time.perf_counter() - begun), seconds


def alone(folder: Path, repeats: int) -> dict[str, float]:
    """Milliseconds of encoding a text, and of searching for a vector, in this process and one by one."""
    index = Index.open(folder)
    embedder = index.embedder
    texts = [nth_text(number) for number in range(repeats + 1)]
    encoding, searching = [], []
    for text in texts:
        begun = time.perf_counter()
        vectors = embedder.encode([text], "text")
        between = time.perf_counter()
        index.search_vectors(vectors, 24)
        encoding.append(between - begun), searching.append(time.perf_counter() - between)
    return {"encoding_ms": 1000 * median(encoding[1:]), "searching_ms": 1000 * median(searching[1:])}


def compare(servers: list[Server], clients: int, requests: int, rounds: int) -> list[dict[str, Any]]:
    """Rates and latencies of servers that take turns."""
    rates: dict[str, list[float]] = {server.name: [] for server in servers}
    seconds: dict[str, list[float]] = {server.name: [] for server in servers}
    for _ in range(rounds):
        for server in servers:
            asyncio.run(measure(server, clients, clients))
            rate, times = asyncio.run(measure(server, clients, requests))
            rates[server.name].append(rate)
            seconds[server.name] += times
    rows = []
    for server in servers:
        p50, p99 = 1000 * np.quantile(seconds[server.name], [0.5, 0.99])
        rate = float(median(rates[server.name]))
        rows.append({"clients": clients, "server": server.name, "rate": rate, "p50_ms": p50, "p99_ms": p99})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", nargs="?", type=Path, help="by default one is made")
    parser.add_argument("--encoder", default="../shared/models/all-MiniLM-L6-v2", help="of the index that is made")
    parser.add_argument("--items", type=int, default=1_000_000, help="of the index that is made")
    parser.add_argument("--folder", type=Path, help="keeps the index that is made; a temporary one by default")
    parser.add_argument("--sides", nargs="+", default=["batches off", "batches on", "FastAPI and faiss"])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=320, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="the median of their rates is told")
    parser.add_argument("--json", help="write the figures here")
    given = parser.parse_args()

    with ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        index = given.index or make_index(folder, given.encoder, given.items)
        figures: dict[str, Any] = {"items": len(Index.open(index)), "alone": alone(index, 30), "rows": []}
        print("| {items:,} items, one by one, in one process | ms |\n|---|---|".format(**figures))
        print("| encoding a text | {encoding_ms:.1f} |\n| searching | {searching_ms:.1f} |".format(**figures["alone"]))
        servers = [stack.enter_context(serving(name, index)) for name in given.sides]
        print("\n| clients | server | requests/s | p50 ms | p99 ms |\n|---|---|---|---|---|")
        for clients in given.clients:
            for row in compare(servers, clients, given.requests, given.rounds):
                figures["rows"].append(row)
                print("| {clients} | {server} | {rate:.1f} | {p50_ms:.1f} | {p99_ms:.1f} |".format(**row), flush=True)
        print("\n| server | cold start, s | memory of its own, MiB | mapped files, MiB |\n|---|---|---|---|")
        for server in servers:
            own, mapped = server.memory()
            figures[server.name] = {"start_s": server.start, "own_mib": own, "mapped_mib": mapped}
            print(f"| {server.name} | {server.start:.1f} | {own:.0f} | {mapped:.0f} |")
    if given.json:
        write_json(Path(given.json), figures)


if __name__ == "__main__":
    main()
