"""Exact search compared with faiss and usearch: time, share of the machine's limit, agreement of the results.

    python benchmarks/search.py --queries 1 64 1024

searches random unit vectors in float16, with their codes of 8 bits, for the ten nearest, alternating between all
sides, and prints a Markdown
table of medians. faiss searches a float32 copy (`IndexFlatIP`) and float16 (`IndexScalarQuantizer`), usearch float16
with `exact=True`; they need the extra `bench`. "right" is the share of the ten nearest by float64 in a side's
results, for some queries. One query reads all vectors once, many queries are matrix products: shares refer to the
rate of a copy in memory, or of products. Ratios and shares use processor time, summed over threads, which other
programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import faiss
import numpy as np
import roofline
import torch
from torch.nn.functional import normalize
from usearch.index import MetricKind
from usearch.index import search as usearch_search

from lightcrl.files.local import write_json
from lightcrl.index import nearest
from lightcrl.metrics.scores import ALONE, Codes, quickest

SLOW = 10.0
"""Seconds above which a single search suffices."""

CHECKED = 8
"""Number of queries that are compared with a search in float64."""

OURS = "LightCRL"
Search = Callable[[np.ndarray], np.ndarray]


def units(count: int, dim: int, seed: int) -> np.ndarray:
    """Draw random unit vectors [count, dim] in float16."""
    generator = torch.Generator().manual_seed(seed)
    parts = [min(65_536, count - start) for start in range(0, count, 65_536)]
    return torch.cat([normalize(torch.randn(size, dim, generator=generator), dim=1).half() for size in parts]).numpy()


def make_sides(vectors: np.ndarray, k: int, threads: int) -> dict[str, Search]:
    """Return every side by name: a function from queries [Q, d] float32 to the places [Q, k] of the nearest."""
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    dim, ours = vectors.shape[1], torch.from_numpy(vectors)
    codes = Codes.of(ours)
    flat = faiss.IndexFlatIP(dim)
    half = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    half.train(vectors[:1].astype(np.float32))
    for start in range(0, len(vectors), 65_536):
        for index in (flat, half):
            index.add(vectors[start : start + 65_536].astype(np.float32))

    def usearch(queries: np.ndarray) -> np.ndarray:
        asked = queries.astype(np.float16)
        matches = usearch_search(vectors, asked, k, MetricKind.IP, exact=True, threads=threads)
        return np.asarray(matches.keys).reshape(len(queries), -1)

    return {
        OURS: lambda queries: nearest(torch.from_numpy(queries), ours, k, codes)[0].numpy(),
        "faiss float32": lambda queries: flat.search(queries, k)[1],
        "faiss float16": lambda queries: half.search(queries, k)[1],
        "usearch float16": usearch,
    }


def measure(sides: dict[str, Search], queries: np.ndarray, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Measure wall-clock and processor seconds of every repetition, alternating between the sides."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for side in sides.values():
        side(queries[:1])
    for _ in range(repeats):
        for name, side in sides.items():
            if not seconds[name] or seconds[name][0][1] < SLOW:
                begun = time.perf_counter(), time.process_time()
                side(queries)
                seconds[name].append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    return seconds


def nearest_in_float64(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Return the places [Q, k] of the nearest by scores in float64."""
    parts = [queries.astype(np.float64) @ part.astype(np.float64).T for part in np.array_split(vectors, 64)]
    return np.argsort(-np.concatenate(parts, 1), axis=1, kind="stable")[:, :k]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 64, 1024])
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--without", nargs="*", default=[], help="sides to leave out, such as 'usearch float16'")
    parser.add_argument("--json", help="write the figures here")
    given = parser.parse_args()
    limits = roofline.measure(given.threads)
    product = limits.bfloat16 if quickest("cpu") == torch.bfloat16 else limits.float32
    vectors = units(given.size, given.dim, seed=0)
    asked = units(max(*given.queries, CHECKED), given.dim, seed=1).astype(np.float32)
    sides = make_sides(vectors, given.top, given.threads)
    sides = {name: side for name, side in sides.items() if name not in given.without}
    wanted = nearest_in_float64(vectors, asked[:CHECKED], given.top)
    right = {
        name: np.mean([len(set(a) & set(b)) for a, b in zip(side(asked[:CHECKED]), wanted, strict=True)]) / given.top
        for name, side in sides.items()
    }
    print("| queries | side | s | processor, s | LightCRL's time is | share of the machine's limit | right |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for count in given.queries:
        seconds = measure(sides, asked[:count], given.repeats)
        busy = {name: median(spent for _, spent in taken) for name, taken in seconds.items()}
        if count <= ALONE:
            least = given.size * given.dim * vectors.itemsize * count / limits.memory
        else:
            least = 2.0 * given.size * given.dim * count / product
        for name, taken in seconds.items():
            clock, share = median(passed for passed, _ in taken), least / busy[name]
            cells = f"{clock:.4f} | {busy[name]:.4f} | {busy[OURS] / busy[name]:.2f} x | {100 * share:.0f} %"
            print(f"| {count:,} | {name} | {cells} | {right[name]:.3f} |", flush=True)
            rows.append({"queries": count, "side": name, "seconds": taken, "share": share, "right": right[name]})
    if given.json:
        settings = {"size": given.size, "dim": given.dim, "threads": given.threads, "limits": vars(limits)}
        write_json(Path(given.json), {**settings, "rows": rows})


if __name__ == "__main__":
    main()
