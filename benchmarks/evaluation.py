"""Retrieval among many items: time, as a share of what the machine can do, and memory above the embeddings.

    python benchmarks/evaluation.py                        20,000 pictures, 100,000 captions: half a minute
    python benchmarks/evaluation.py --pictures 100000      500,000 captions: six minutes on one core

evaluates random pictures with five captions each, in both directions, with chance and intervals, and prints a Markdown
table. The limit is one product of all pictures and all captions, at the rate of float32 products measured beside it.
`--curves` adds precision and recall over every k: two products.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import roofline
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightcrl.evaluation.retrieval import Retrieval
from lightcrl.storage import write_json


class Timed(Retrieval):
    """Keeps the seconds that ranks took."""

    ranks = 0.0

    def per_query(self, embeddings: Mapping[str, Tensor]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        begun = time.perf_counter()
        found = super().per_query(embeddings)
        self.ranks = time.perf_counter() - begun
        return found


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(work: Callable[[], Any]) -> tuple[float, int, Any]:
    """Seconds, bytes at the peak above those before, and what came out."""
    start, peak, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.perf_counter()
    found = work()
    seconds = time.perf_counter() - begun
    done.set()
    watcher.join()
    return seconds, max(0, peak[0] - start), found


def make_world(pictures: int, captions: int, dim: int) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """Unit vectors whose captions lie about their picture, and links."""
    generator = torch.Generator().manual_seed(0)
    image = normalize(torch.randn(pictures, dim, generator=generator), dim=1)
    text = torch.randn(pictures * captions, dim, generator=generator).mul_(2.5 / dim**0.5)
    text.view(pictures, captions, dim).add_(image[:, None])
    text.div_(text.norm(dim=1, keepdim=True))
    number = np.arange(pictures)
    links = {"image": np.stack([number, number], 1)}
    links["text"] = np.stack([np.arange(pictures * captions), np.repeat(number, captions)], 1)
    return {"image": image, "text": text}, links


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--captions", type=int, default=5)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--curves", action="store_true")
    parser.add_argument("--json", help="write the figures here")
    given = parser.parse_args()
    limits = roofline.measure(given.threads)
    torch.set_num_threads(given.threads)
    vectors, links = make_world(given.pictures, given.captions, given.dim)
    retrieval = Timed(links)
    least = 2.0 * len(vectors["image"]) * len(vectors["text"]) * given.dim / limits.float32
    seconds, memory, result = measure(lambda: retrieval(vectors))
    rows = [("ranks, both directions", retrieval.ranks, 1, None), ("with chance and intervals", seconds, 1, memory)]
    if given.curves:
        seconds, memory, _ = measure(lambda: retrieval.curves(vectors))
        rows.append(("curves, both directions", seconds, 2, memory))
    print(
        f"| {len(vectors['image']):,} x {len(vectors['text']):,} x {given.dim} | s | share of the limit | MiB above |"
    )
    print("|---|---|---|---|")
    for name, taken, products, above in rows:
        mebibytes = "" if above is None else f"{above / 2**20:,.0f}"
        print(f"| {name} | {taken:.1f} | {100 * products * least / taken:.0f} % | {mebibytes} |")
    print(
        f"\nlimit {least:.1f} s a product, {limits.float32 / 1e9:.0f} GFLOP/s; mean R@1 "
        f"{result.metrics['mean_recall@1']:.4f}"
    )
    if given.json:
        keys = ("part", "seconds", "products", "bytes")
        write_json(
            Path(given.json),
            {
                "rows": [dict(zip(keys, row, strict=True)) for row in rows],
                "least": least,
                "limits": vars(limits),
                "metrics": result.metrics,
            },
        )


if __name__ == "__main__":
    main()
