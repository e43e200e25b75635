"""The server under many clients: text queries a second and their latency, with and without batches of several clients.

    python benchmarks/server.py                              a model of random weights over a text encoder
    python benchmarks/server.py photos.index                 an index of one's own

starts `lightcrl serve` twice on the loopback interface, with `--batch 1` and `--batch 32`, and lets 1, 8 and 32 clients
ask one text after another, each over a connection of its own. The two servers take turns, so that both meet the same
machine. Prints a Markdown table and writes the figures as JSON (`--json`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import torch

from lightcrl.checkpoint import Checkpoint
from lightcrl.embedder import Embedder
from lightcrl.encoders import load_encoder
from lightcrl.encoders.base import EncoderSpec
from lightcrl.files.local import write_json
from lightcrl.index import Index
from lightcrl.methods.spec import make_method
from lightcrl.tokens import TokenSpec

BATCHES = (1, 32)
THINGS = ("a dog", "two children", "an old man", "a red car", "a boat", "a group of people", "a bird", "a woman")
PLACES = ("in the snow", "on a street at night", "by the sea", "in a kitchen with a window", "in front of a house")


def make_index(folder: Path, encoder: str, items: int) -> Path:
    """An index of random vectors, with a text encoder that is real."""
    spec = EncoderSpec(kind="text", model=encoder)
    loaded = load_encoder(spec)
    tokens = {"text": TokenSpec(loaded.dim, loaded.slots, loaded.sequence)}
    torch.manual_seed(0)
    method = make_method("linear", tokens, {"dim": 256, "standardise": False}, "info_nce")
    fingerprints = {"text": loaded.fingerprint}
    checkpoint = Checkpoint(
        method, name="linear", loss="info_nce", encoders={"text": spec}, fingerprints=fingerprints, recipe={"name": "b"}
    )
    checkpoint.save(folder / "model")
    index = Index.create(folder / "index", folder / "model")
    vectors = np.random.default_rng(0).normal(size=(items, 256)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index.add_vectors([str(n) for n in range(items)], vectors, "text", fingerprint=Embedder(checkpoint).fingerprint)
    return index.folder


@contextmanager
def server(index: Path, batch: int) -> Iterator[tuple[str, int]]:
    """`lightcrl serve` on a free port, once it is ready."""
    command = [sys.executable, "-m", "lightcrl", "serve", str(index), "--port", "0", "--batch", str(batch)]
    process = subprocess.Popen([*command, "--max-queue", "1000"], stdout=subprocess.PIPE, text=True)
    try:
        said = ""
        while not (address := re.search(r"http://([\d.]+):(\d+)", said)):
            said += process.stdout.readline()
        while True:
            try:
                urlopen(f"{address[0]}/readyz").read()
                break
            except OSError:
                time.sleep(0.2)
        yield address[1], int(address[2])
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


async def measure(host: str, port: int, clients: int, requests: int) -> tuple[float, list[float]]:
    """Requests a second of so many clients, and the seconds of each request."""
    seconds: list[float] = []
    texts = [f"{THINGS[n % 8]} {PLACES[n % 5]}, {n}" for n in range(requests)]
    begun = time.perf_counter()
    await asyncio.gather(*(client(host, port, texts[n::clients], seconds) for n in range(clients)))
    return requests / (time.perf_counter() - begun), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", nargs="?", type=Path, help="by default one is made")
    parser.add_argument("--encoder", default="../shared/models/all-MiniLM-L6-v2", help="of the index that is made")
    parser.add_argument("--items", type=int, default=20_000, help="of the index that is made")
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--requests", type=int, default=320, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="the median of their rates is told")
    parser.add_argument("--json", help="write the figures here")
    given = parser.parse_args()

    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        index = given.index or make_index(Path(temporary), given.encoder, given.items)
        with server(index, BATCHES[0]) as one, server(index, BATCHES[1]) as many:
            for clients in map(int, given.clients.split(",")):
                rates: dict[int, list[float]] = {batch: [] for batch in BATCHES}
                seconds: dict[int, list[float]] = {batch: [] for batch in BATCHES}
                for _ in range(given.rounds):
                    for batch, (host, port) in zip(BATCHES, (one, many), strict=True):
                        asyncio.run(measure(host, port, clients, clients))
                        rate, times = asyncio.run(measure(host, port, clients, given.requests))
                        rates[batch].append(rate)
                        seconds[batch] += times
                for batch in BATCHES:
                    p50, p99 = 1000 * np.quantile(seconds[batch], [0.5, 0.99])
                    rate = float(np.median(rates[batch]))
                    rows.append({"clients": clients, "batch": batch, "rate": rate, "p50_ms": p50, "p99_ms": p99})
    print("| clients | batches | requests/s | p50 ms | p99 ms |\n|---|---|---|---|---|")
    for row in rows:
        batches = "off" if row["batch"] == 1 else "on"
        print(f"| {row['clients']} | {batches} | {row['rate']:.0f} | {row['p50_ms']:.1f} | {row['p99_ms']:.1f} |")
    if given.json:
        write_json(Path(given.json), rows)


if __name__ == "__main__":
    main()
