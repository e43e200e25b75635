"""Effect of block shuffling on quality: a full shuffle and windows of several kinds in the same training.

    python benchmarks/block_shuffle.py --recipe recipes/flickr8k.toml --method linear --windows 4x1 64x1
    python benchmarks/block_shuffle.py --sorted 200000 --windows 1024x16 256x16 64x16 1024x1 16384x1

A window of 64x16 is filled from blocks of 64 neighbouring groups and holds 16 batches. Blocks are a hard case if
neighbours are similar: `--alike 60` sorts a recipe's groups by 60 clusters of the first modality's features, and
`--sorted` generates items sorted by class, 5,000 per class. The benchmark prints mean R@1 on dev with 95 % intervals
over seeds and groups, and differences from the full shuffle, for the same seeds and groups.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import larger_than_memory
import numpy as np
import torch

from lightcrl.checkpoint import Checkpoint
from lightcrl.encoders.base import EncoderSpec
from lightcrl.features import Features, FeatureStore
from lightcrl.features.embed import embed_split
from lightcrl.features.table import Split, make_members
from lightcrl.methods.base import Method
from lightcrl.methods.spec import make_method
from lightcrl.metrics.intervals import hits
from lightcrl.metrics.retrieval import Retrieval
from lightcrl.metrics.statistics import bootstrap_ratios, draws, estimate
from lightcrl.pipeline import prepare
from lightcrl.recipe import load_recipe
from lightcrl.training import loop as training
from lightcrl.training.batches import Window
from lightcrl.training.spec import TrainingSpec

FULL = "full"


def parse(words: str) -> Window | None:
    """Parse `"64x16"` into a window; None stands for the full shuffle."""
    return None if words == FULL else Window(*map(int, words.split("x")))


def sorted_stores(folder: Path, items: int) -> Features:
    larger_than_memory.make(folder, items, 128, ordered=True, noise=1.7)
    return Features({name: FeatureStore(folder / name) for name in larger_than_memory.MODALITIES})


def alike(features: Features, clusters: int) -> Features:
    """Reorder the groups so that those of a cluster are neighbours."""
    split = features.split("train")
    name, members = next(iter(split.members.items()))
    rows = np.unique(members.rows)
    items = features.store(name).gather(rows, sequence=False).values.float().mean(1).numpy()
    items = (items - items.mean(0)) / items.std(0)
    centres = items[np.random.default_rng(0).choice(len(items), clusters, replace=False)]
    for _ in range(20):
        nearest = (items @ centres.T - (centres**2).sum(1) / 2).argmax(1)
        centres = np.stack(
            [items[nearest == n].mean(0) if (nearest == n).any() else centres[n] for n in range(clusters)]
        )
    cluster = np.zeros(len(split), int)
    cluster[members.groups] = nearest[np.searchsorted(rows, members.rows)]
    place = np.empty(len(split), int)
    place[np.argsort(cluster, kind="stable")] = np.arange(len(split))
    sorted_members = {
        modality: make_members(items.rows, place[items.groups], len(split)) for modality, items in split.members.items()
    }
    return features.replace_split("train", Split(len(split), sorted_members))


def outcome(features: Features, spec: TrainingSpec, method: str, seed: int, window: Window | None, folder: Path) -> Any:
    """Train, and return hits [directions, groups] on dev, the number of queries of each group, and mean R@1."""
    training.make_window = lambda *given: window
    checkpoint = Checkpoint(
        make_method(method, features.specs, {}, "info_nce", seed),
        name=method,
        loss="info_nce",
        encoders={name: EncoderSpec(kind="text", model="builtin") for name in features.stores},
        fingerprints=dict.fromkeys(features.stores, "f"),
    )
    training.train(checkpoint, features, spec, folder, seed=seed)
    sums, sizes = dev_hits(checkpoint.method, features)
    return sums, sizes, float((sums.sum(1) / sizes.sum(1)).mean())


def dev_hits(method: Method, features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Return the hits at 1 of each dev group's queries, and their number, both [directions, groups]."""
    split = features.split("dev")
    vectors, links = embed_split(method, features, split)
    ranks = Retrieval(links).per_query(vectors).values()
    sums = np.stack([np.bincount(groups, hits(counts, 1), len(split)) for counts, groups in ranks])
    return sums, np.stack([np.bincount(groups, minlength=len(split)) for _, groups in ranks]).astype(float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", help="whose data and training are taken")
    parser.add_argument("--sorted", type=int, help="in place of a recipe: so many items in order of a class each")
    parser.add_argument("--alike", type=int, help="clusters in whose order the recipe's groups are put")
    parser.add_argument("--method", default="linear")
    parser.add_argument("--windows", nargs="+", default=["4x1", "64x1"], help="BLOCKxBATCHES")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="in place of the recipe's")
    parser.add_argument("--json", help="write the figures here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if given.recipe:
            recipe = load_recipe(given.recipe)
            features, spec = prepare(recipe)[0], recipe.training
        else:
            features, spec = sorted_stores(folder / "stores", given.sorted), TrainingSpec(batch_size=1024, epochs=3)
        spec = spec.model_copy(update={"tensorboard": False, **({"epochs": given.epochs} if given.epochs else {})})
        features = features.in_memory(spec.memory_bytes)
        if given.alike:
            features = alike(features, given.alike)
        kinds = [FULL, *given.windows]
        boot: dict[str, np.ndarray] = {}
        kept: dict[str, list[float]] = {}
        for kind in kinds:
            runs = [
                outcome(features, spec, given.method, seed, parse(kind), folder / f"{kind}-{seed}")
                for seed in given.seeds
            ]
            kept[kind] = [figure for _, _, figure in runs]
            sums = np.mean([sums for sums, _, _ in runs], axis=0)
            boot[kind] = bootstrap_ratios(sums, runs[0][1]).mean(1)
            print(f"{kind}: {kept[kind]}", flush=True)
    print("\n| window | blocks in it | mean R@1 | less the full shuffle |\n|---|---|---|---|")
    for kind in kinds:
        values = np.array(kept[kind])
        mean = estimate(draws(values, boot[kind], 0))
        window = parse(kind)
        cells = [kind, "", f"{mean.mean:.4f} ({mean.both[0]:.4f} to {mean.both[1]:.4f})", ""]
        if window:
            paired = draws(values - np.array(kept[FULL]), boot[kind] - boot[FULL], 0)
            less, (low, high) = paired.mean, np.quantile(paired.both, [0.025, 0.975])
            size = window.batches * (1024 if spec.batch_size == "auto" else spec.batch_size)
            cells[1] = f"{max(1, size // window.block)}"
            cells[3] = f"{less:+.4f} ({low:+.4f} to {high:+.4f})"
        print("| " + " | ".join(cells) + " |")
    if given.json:
        Path(given.json).write_text(json.dumps({"arguments": vars(given), "mean_recall@1": kept}, indent=1) + "\n")


if __name__ == "__main__":
    main()
