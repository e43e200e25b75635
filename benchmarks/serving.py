"""Serving of a trained model by torch, by ONNX Runtime, and by ONNX Runtime in 8 bits: latency, size, recall.

    python benchmarks/serving.py runs/flickr8k --groups 300

exports the model twice, embeds single items by each of the three, alternating, and `--groups` of the recipe's
evaluation split by each. Prints a Markdown table per modality (milliseconds of one item, preprocessing included,
median and 99th percentile; MiB of weights) and a table of mean R@1, and writes both as JSON.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lightcrl
from lightcrl.data import load_dataset
from lightcrl.export import ExportedEmbedder, export_onnx
from lightcrl.files.local import write_json
from lightcrl.metrics.retrieval import Retrieval
from lightcrl.recipe import make_recipe

Encode = Callable[[list[Any], str], np.ndarray]


def latencies(sides: dict[str, Encode], items: list[Any], modality: str) -> dict[str, list[float]]:
    """Measure milliseconds of single items; the sides alternate, so that all see the same load."""
    milliseconds: dict[str, list[float]] = {name: [] for name in sides}
    for encode in sides.values():
        for item in items[:3]:
            encode([item], modality)
    for item in items:
        for name, encode in sides.items():
            begun = time.perf_counter()
            encode([item], modality)
            milliseconds[name].append(1000 * (time.perf_counter() - begun))
    return milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run's folder, or a checkpoint's")
    parser.add_argument("--groups", type=int, default=300, help="of the evaluation split, for recall")
    parser.add_argument("--items", type=int, default=200, help="of each modality, for latency")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="write the figures here")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)

    embedder = lightcrl.load(given.model, device="cpu")
    recipe = make_recipe(embedder.checkpoint.recipe)
    dataset = load_dataset(recipe.data, recipe.kinds)
    chosen = np.flatnonzero(np.array(dataset.splits) == recipe.evaluation.split)[: given.groups]
    place = {int(group): number for number, group in enumerate(chosen)}
    items, links = {}, {}
    for modality, pairs in dataset.links.items():
        mine = pairs[np.isin(pairs[:, 1], chosen)]
        used, item = np.unique(mine[:, 0], return_inverse=True)
        items[modality] = [dataset.items[modality][number].read() for number in used]
        links[modality] = np.stack([item, [place[int(group)] for group in mine[:, 1]]], 1)

    with tempfile.TemporaryDirectory() as folder:
        exports = {name: export_onnx(embedder, Path(folder) / name, int8=name == "int8") for name in ("onnx", "int8")}
        sides: dict[str, Encode] = {"torch": embedder.encode}
        sides |= {name: ExportedEmbedder(path, threads=given.threads).encode for name, path in exports.items()}
        sizes = {
            name: {modality: (path / f"{modality}.onnx").stat().st_size for modality in items}
            for name, path in exports.items()
        }
        rows = []
        print("| modality | by | one item: median, ms | 99 %, ms | of torch's | MiB |")
        print("|---|---|---|---|---|---|")
        for modality in items:
            times = latencies(sides, items[modality][: given.items], modality)
            for name, one in times.items():
                half, most = np.percentile(one, [50, 99])
                row = {
                    "modality": modality,
                    "by": name,
                    "p50": half,
                    "p99": most,
                    "bytes": sizes.get(name, {}).get(modality),
                }
                rows.append(row)
                share = half / np.median(times["torch"])
                size = "" if row["bytes"] is None else f"{row['bytes'] / 2**20:.1f}"
                print(f"| {modality} | {name} | {half:.2f} | {most:.2f} | {share:.2f} | {size} |", flush=True)
        recalls = {}
        print("\n| program | mean R@1 | least cosine to torch |")
        print("|---|---|---|")
        vectors: dict[str, dict[str, np.ndarray]] = {}
        for name, encode in sides.items():
            vectors[name] = {modality: encode(items[modality], modality) for modality in items}
            tensors = {modality: torch.from_numpy(array) for modality, array in vectors[name].items()}
            recalls[name] = Retrieval(links)(tensors).metrics["mean_recall@1"]
            near = min(float((vectors[name][m] * vectors["torch"][m]).sum(1).min()) for m in items)
            print(f"| {name} | {recalls[name]:.4f} | {near:.6f} |", flush=True)
    if given.json:
        write_json(Path(given.json), {"threads": given.threads, "latency": rows, "mean_recall@1": recalls})


if __name__ == "__main__":
    main()
