"""Growth of the cost of every stage with the data, and the cost of a million items.

    python benchmarks/growth.py --text MODEL --texts captions.jsonl:column

Stages: encoding texts, writing a store and reading the group membership, an epoch of training on pooled features,
ranks of all pictures with five captions each in both directions, and exact search. Each is timed at four sizes or
more, each twice the one before; the fastest of `--rounds` counts. A line through the logarithms gives the power by
which time grows. If it is near 1 (near 2 for ranks), the largest size is extrapolated to a million.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluation import make_world
from larger_than_memory import MODALITIES, make
from torch.nn.functional import normalize

from lightcrl.checkpoint import Checkpoint
from lightcrl.data.base import text_item
from lightcrl.encoders import EncoderSpec, load_encoder
from lightcrl.features import Features, FeatureStore, encode_items
from lightcrl.files.local import write_json
from lightcrl.index import nearest
from lightcrl.methods.spec import make_method
from lightcrl.metrics.retrieval import Retrieval
from lightcrl.training.judge import Judgement
from lightcrl.training.loop import train
from lightcrl.training.spec import TrainingSpec

DIM = 384
QUERIES = 64


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Return the seconds of the fastest round."""
    durations = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        durations.append(time.perf_counter() - begun)
    return min(durations)


def encoding(given: argparse.Namespace) -> Callable[[int], Callable[[], object]]:
    """Encode texts."""
    path, _, column = given.texts.rpartition(":")
    rows = Path(path).read_text(encoding="utf-8").splitlines()
    texts = sorted({json.loads(row)[column] for row in rows})
    random.Random(0).shuffle(texts)
    encoder = load_encoder(EncoderSpec(kind="text", model=given.text, dtype="auto", device="cpu"))
    items = [text_item(text, str(number)) for number, text in enumerate(texts)]

    def of_size(size: int) -> Callable[[], object]:
        return lambda: dict(encode_items(encoder, items[:size]))

    of_size(64)()
    return of_size


def writing(folder: Path) -> Callable[[int], Callable[[], object]]:
    """Write two modalities with a single vector per item; later stages use the stores."""
    return lambda size: lambda: make(folder / str(size), size, DIM, ordered=False)


def opened(folder: Path, size: int) -> Features:
    """Open both stores and read the group membership."""
    return Features({name: FeatureStore(folder / str(size) / name) for name in MODALITIES})


def training(folder: Path, method: str) -> Callable[[int], Callable[[], object]]:
    """Train for an epoch, without dev."""

    def of_size(size: int) -> Callable[[], object]:
        features = opened(folder, size)

        def work() -> None:
            checkpoint = Checkpoint(
                make_method(method, features.specs, {}, "info_nce", 0),
                name=method,
                loss="info_nce",
                encoders={name: EncoderSpec(kind="text", model="builtin") for name in MODALITIES},
                fingerprints=dict.fromkeys(MODALITIES, "f"),
            )
            spec = TrainingSpec(epochs=1, batch_size=1024, tensorboard=False)
            with tempfile.TemporaryDirectory() as place:
                train(checkpoint, features, spec, place, judge=unseen)

        return work

    return of_size


def unseen(*_: Any) -> Judgement:
    """Skip dev: the stage `ranks` is measured separately."""
    return Judgement({"nothing": 0.0}, lambda: Retrieval(make_world(2, 1, 4)[1])(make_world(2, 1, 4)[0]))


def ranking(size: int) -> Callable[[], object]:
    """Rank that many pictures with five captions each."""
    vectors, links = make_world(size, 5, 256)
    retrieval = Retrieval(links)
    return lambda: retrieval.per_query(vectors)


def searching(size: int) -> Callable[[], object]:
    """Search that many vectors, with several queries at once."""
    generator = torch.Generator().manual_seed(0)
    vectors = normalize(torch.randn(size, 256, generator=generator), dim=1).half()
    queries = normalize(torch.randn(QUERIES, 256, generator=generator), dim=1)
    return lambda: nearest(queries, vectors, 10)


def power(times: Mapping[int, float]) -> tuple[float, float]:
    """Return the slope of log time over log size, and the greatest factor between a time and the fitted line."""
    sizes, durations = np.log(list(times)), np.log(list(times.values()))
    slope, start = np.polyfit(sizes, durations, 1)
    return float(slope), float(np.exp(np.abs(durations - slope * sizes - start).max()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", help="a text model's folder")
    parser.add_argument("--texts", help="a JSONL file and a column of it: file:column")
    parser.add_argument("--method", default="dfe")
    parser.add_argument("--largest", type=float, default=1.0, help="times the usual sizes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="write the figures here")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = []
    print("| stage | sizes | seconds | power | greatest deviation | a million |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stages: list[tuple[str, int, float, Callable[[int], Callable[[], object]]]] = [
            ("writing two stores", 10_000, 1, writing(folder)),
            ("reading group membership", 10_000, 1, lambda size: lambda: opened(folder, size)),
            (f"an epoch, {given.method}", 10_000, 1, training(folder, given.method)),
            ("ranks, n pictures and 5 n captions", 1_000, 2, ranking),
            (f"search, {QUERIES} queries", 50_000, 1, searching),
        ]
        if given.text:
            stages.insert(0, ("encoding texts", 250, 1, encoding(given)))
        for stage, least, expected, make_work in stages:
            times = {}
            for doubled in range(4):
                size = int(least * 2**doubled * given.largest)
                times[size] = seconds(make_work(size), given.rounds)
            slope, off = power(times)
            size, last = max(times.items())
            million = last * (1e6 / size) ** expected
            rows.append({"stage": stage, "times": times, "power": slope, "off": off, "million": million})
            shown = ", ".join(f"{duration:.2f}" for duration in times.values())
            print(
                f"| {stage} | {min(times):,} to {size:,} | {shown} | {slope:.2f} | {off:.2f} | {million:,.0f} s |",
                flush=True,
            )
        sizes = {path: sum(file.stat().st_size for file in path.rglob("*")) for path in folder.glob("*")}
    if given.json:
        with suppress(ValueError):
            rows.append({"bytes": {path.name: size for path, size in sizes.items()}})
        write_json(Path(given.json), {"threads": given.threads, "rows": rows})
    largest = max(sizes, key=lambda path: int(path.name))
    print(f"\nboth stores of {int(largest.name):,} items of {DIM} float16 take {sizes[largest] / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
