"""The engines of an index beside faiss, usearch and LanceDB used directly: time to build, time of a query, recall.

    python benchmarks/index_engines.py --sizes 10000 100000 1000000

makes unit vectors like embeddings (a mixture of clusters in a space of fewer directions, mapped to `--dim` and rounded
to float16), builds every side, and asks the same queries one by one and 64 at a time. Recall is of the ten nearest by
`lightcrl.index.nearest`, which is exact. Everything that answers a query runs on one thread and on one core: the
process is bound to it, since LanceDB has no setting for its threads. Builds use `--build-threads`. Times are medians on
the clock. Needs the extras `bench` and `search`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import torch
from usearch.index import Index as Usearch

from lightcrl.files.local import make_folder, write_json
from lightcrl.index import ENGINES, nearest
from lightcrl.index.lancedb import KINDS

TOP = 10
BLOCK = 65_536
Search = Callable[[np.ndarray], np.ndarray]


@dataclass
class Side:
    """Who is measured: how it is built, which gives how it searches; and the size of what it has written."""

    build: Callable[[np.ndarray, Path], Search]


def embeddings(count: int, dim: int, seed: int) -> np.ndarray:
    """Unit vectors [count, dim] float16: clusters of 48 latent directions, and a little noise in all of `dim`."""
    shape, rng = np.random.default_rng(0), np.random.default_rng(seed)
    latent, clusters = 48, 2000
    centres = shape.normal(size=(clusters, latent)).astype(np.float32)
    turn = np.linalg.qr(shape.normal(size=(dim, latent)))[0].T.astype(np.float32)
    parts = []
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        points = centres[rng.integers(0, clusters, size)] + 0.8 * rng.normal(size=(size, latent)).astype(np.float32)
        vectors = points @ turn + 0.1 * rng.normal(size=(size, dim)).astype(np.float32)
        parts.append((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16))
    return np.concatenate(parts)


def engine(name: str, **options: Any) -> Side:
    """One of ours, as an index uses it."""

    def build(vectors: np.ndarray, folder: Path) -> Search:
        made = ENGINES.load(name)(folder, vectors.shape[1], "float16", options)
        token = made.create()
        for start in range(0, len(vectors), BLOCK):
            part = vectors[start : start + BLOCK].astype(np.float32)
            token = made.append(token, np.arange(start, start + len(part)), part, ["image"] * len(part))
        view = made.open(made.settle(token), np.zeros(0, np.int64))
        return lambda queries: view.search(queries, TOP, None)[0]

    return Side(build)


def direct_lancedb(vectors: np.ndarray, folder: Path) -> Search:
    """LanceDB by its own defaults: an index IVF_HNSW_SQ of float32, no refinement."""
    import lancedb
    from lancedb.index import IvfHnswSq

    value = pa.list_(pa.float32(), vectors.shape[1])
    table = lancedb.connect(str(folder / "direct")).create_table(
        "items", schema=pa.schema([("number", pa.int64()), ("vector", value)])
    )
    for start in range(0, len(vectors), BLOCK):
        part = vectors[start : start + BLOCK].astype(np.float32)
        rows = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), vectors.shape[1])
        table.add(pa.table([pa.array(np.arange(start, start + len(part))), rows], table.schema))
    table.create_index("vector", config=IvfHnswSq(distance_type="dot"))

    def search(queries: np.ndarray) -> np.ndarray:
        asked = table.search(list(queries) if len(queries) > 1 else queries[0], vector_column_name="vector")
        part = asked.distance_type("dot").limit(TOP).select(["number", "_distance"]).to_arrow()
        return part["number"].to_numpy().reshape(len(queries), -1)

    return search


def faiss_flat(vectors: np.ndarray, folder: Path) -> Search:
    """faiss, exact, float16."""
    index = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[:1].astype(np.float32))
    for start in range(0, len(vectors), BLOCK):
        index.add(vectors[start : start + BLOCK].astype(np.float32))
    return lambda queries: index.search(queries, TOP)[1]


def faiss_ivf(vectors: np.ndarray, folder: Path) -> Search:
    """faiss IVF with float16, 4 sqrt(N) lists, a sixteenth of them looked at."""
    lists = int(4 * len(vectors) ** 0.5)
    coarse = faiss.IndexFlatIP(vectors.shape[1])
    kind = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexIVFScalarQuantizer(coarse, vectors.shape[1], lists, kind, faiss.METRIC_INNER_PRODUCT, False)
    rng = np.random.default_rng(0)
    index.train(vectors[rng.permutation(len(vectors))[: 40 * lists]].astype(np.float32))
    for start in range(0, len(vectors), BLOCK):
        index.add(vectors[start : start + BLOCK].astype(np.float32))
    index.nprobe = max(1, lists // 16)
    return lambda queries: index.search(queries, TOP)[1]


def make_usearch(threads: int) -> Side:
    """usearch HNSW in float16, its defaults."""

    def build(vectors: np.ndarray, folder: Path) -> Search:
        index = Usearch(ndim=vectors.shape[1], metric="ip", dtype="f16")
        index.add(np.arange(len(vectors)), vectors, threads=threads)

        def search(queries: np.ndarray) -> np.ndarray:
            return np.asarray(index.search(queries.astype(np.float16), TOP, threads=1).keys).reshape(len(queries), -1)

        return search

    return Side(build)


def sides(threads: int) -> dict[str, Side]:
    """By name."""
    ours = {f"lancedb {kind}": engine("lancedb", index=kind) for kind in KINDS}
    return {
        "exact": engine("exact"),
        "lancedb": engine("lancedb"),
        **ours,
        "LanceDB directly": Side(direct_lancedb),
        "faiss flat float16": Side(faiss_flat),
        "faiss IVF float16": Side(faiss_ivf),
        "usearch HNSW float16": make_usearch(threads),
    }


def measure(search: Search, queries: np.ndarray, right: np.ndarray, repeats: int) -> dict[str, float]:
    """Medians in milliseconds, and recall."""
    given = np.concatenate([search(queries[n : n + 1]) for n in range(len(queries))])
    hits = [len(set(a) & set(b)) / TOP for a, b in zip(given.tolist(), right.tolist(), strict=True)]
    alone, many = [], []
    for n in range(len(queries)):
        begun = time.perf_counter()
        search(queries[n : n + 1])
        alone.append(time.perf_counter() - begun)
    for _ in range(repeats):
        begun = time.perf_counter()
        search(queries[:64])
        many.append((time.perf_counter() - begun) / 64)
    return {"recall": float(np.mean(hits)), "one_ms": 1000 * median(alone), "of_64_ms": 1000 * median(many)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--build-threads", type=int, default=2)
    default = [
        "exact",
        "lancedb",
        "LanceDB directly",
        "faiss flat float16",
        "faiss IVF float16",
        "usearch HNSW float16",
    ]
    parser.add_argument("--sides", nargs="+", default=default, choices=list(sides(1)))
    parser.add_argument("--folder", type=Path, help="for what is built; a temporary one by default")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    cores = os.sched_getaffinity(0)
    rows: list[dict[str, Any]] = []
    print("| vectors | side | recall@10 | one query, ms | of 64 together, each, ms | build, s | on disk, MiB |")
    print("|---|---|---|---|---|---|---|")
    for size in given.sizes:
        vectors = embeddings(size, given.dim, seed=1)
        queries = embeddings(given.queries, given.dim, seed=2).astype(np.float32)
        right = nearest(torch.from_numpy(queries), torch.from_numpy(vectors), TOP)[0].numpy()
        for name in given.sides:
            folder = Path(tempfile.mkdtemp(dir=given.folder and make_folder(given.folder)))
            os.sched_setaffinity(0, cores)
            torch.set_num_threads(given.build_threads)
            faiss.omp_set_num_threads(given.build_threads)
            begun = time.perf_counter()
            search = sides(given.build_threads)[name].build(vectors, folder)
            seconds = time.perf_counter() - begun
            torch.set_num_threads(1)
            faiss.omp_set_num_threads(1)
            for thread in Path("/proc/self/task").iterdir():
                os.sched_setaffinity(int(thread.name), {min(cores)})
            found = measure(search, queries, right, given.repeats)
            disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
            rows.append({"vectors": size, "side": name, **found, "build_s": seconds, "disk_mib": disk})
            cells = (
                f"{found['recall']:.3f} | {found['one_ms']:.2f} | {found['of_64_ms']:.2f} | {seconds:.0f} | {disk:.0f}"
            )
            print(f"| {size:,} | {name} | {cells} |", flush=True)
            del search
            shutil.rmtree(folder)
            for thread in Path("/proc/self/task").iterdir():
                os.sched_setaffinity(int(thread.name), cores)
    if given.json:
        write_json(given.json, {"dim": given.dim, "queries": given.queries, "rows": rows})


if __name__ == "__main__":
    main()
