"""Retrieval among many items: time as a share of the machine's limit, and memory above the embeddings.

    python benchmarks/evaluation.py                        20,000 pictures, 100,000 captions: half a minute
    python benchmarks/evaluation.py --pictures 100000      500,000 captions: seven minutes of one core

evaluates random pictures with five captions each, in both directions, with chance and intervals, and prints a
Markdown table. Shares refer to processor time, which other programs disturb less. The limit is one product of all
pictures and all captions, at the rate of float32 products measured in the same run. `--curves` adds precision and
recall over every k: two products.
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

from lightcrl.files.local import write_json
from lightcrl.metrics.retrieval import Retrieval


class Known(Retrieval):
    """Retrieval with precomputed ranks, so that the figures can be timed without the ranks."""

    known: dict[str, tuple[np.ndarray, np.ndarray]] | None = None

    def per_query(self, embeddings: Mapping[str, Tensor]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return super().per_query(embeddings) if self.known is None else self.known


def resident() -> int:
    """Return the resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(work: Callable[[], Any]) -> tuple[float, float, int, Any]:
    """Return wall-clock seconds, processor seconds, peak bytes above the start, and the result of `work`."""
    start, peak, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.perf_counter(), time.process_time()
    result = work()
    seconds, busy = time.perf_counter() - begun[0], time.process_time() - begun[1]
    done.set()
    watcher.join()
    return seconds, busy, max(0, peak[0] - start), result


def make_world(pictures: int, captions: int, dim: int) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """Return unit vectors of pictures with captions near them, and links."""
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
    least = 2.0 * len(vectors["image"]) * len(vectors["text"]) * given.dim / limits.float32
    print(f"The limit is {least:.1f} s a product, at {limits.float32 / 1e9:.0f} GFLOP/s.\n")
    print(
        f"| {len(vectors['image']):,} x {len(vectors['text']):,} x {given.dim} | s | share of the limit | MiB above |"
    )
    print("|---|---|---|---|")
    rows = []

    def row(name: str, products: int, work: Callable[[], Any]) -> Any:
        seconds, busy, above, result = measure(work)
        share = f"{100 * products * least / busy:.0f} %" if products else ""
        print(f"| {name} | {seconds:.1f} | {busy:.1f} | {share} | {above / 2**20:,.0f} |", flush=True)
        rows.append({"part": name, "seconds": seconds, "processor": busy, "products": products, "bytes": above})
        return result

    retrieval = Known(links)
    retrieval.known = row("ranks in both directions", 1, lambda: retrieval.per_query(vectors))
    result = row("figures, chance and intervals from them", 0, lambda: retrieval(vectors))
    if given.curves:
        row("curves in both directions", 2, lambda: retrieval.curves(vectors))
    print(f"\nmean R@1 {result.metrics['mean_recall@1']:.4f}")
    if given.json:
        machine = {"threads": given.threads, "least": least, "limits": vars(limits), "rows": rows}
        write_json(Path(given.json), {**machine, "metrics": result.metrics, "interval": result.interval})


if __name__ == "__main__":
    main()
