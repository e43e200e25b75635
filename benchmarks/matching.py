"""Reordered hits on Flickr8k dev: R@1 of the space and of its first hits in the order of a matching head.

    lightcrl run recipes/flickr8k.toml --set evaluation.baselines=[] --set evaluation.seeds=[0] --output runs/flickr8k
    python benchmarks/matching.py runs/flickr8k --seeds 0 1 2 --output runs/matching

Trains the head of `recipes/heads/matching.toml` once per seed on the groups set apart, and measures dev, which neither
trains nor chooses it. Prints a Markdown row per seed, and the gain with its 95 % interval over groups, the same draws
for both orders; then pair accuracy and average precision among the first 32 hits, beside those of the space. Finished
seeds are taken as they are, a stopped training resumes, and `--seeds 0`, `--seeds 1`, ... are parts of a few minutes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import lightcrl
from lightcrl.checkpoint import Checkpoint
from lightcrl.data import DataSpec
from lightcrl.features import Features
from lightcrl.features.spec import FeaturesSpec
from lightcrl.files.local import make_folder, write_json
from lightcrl.growth.head import HeadRecipe
from lightcrl.heads.base import features_of
from lightcrl.heads.matching import Matching
from lightcrl.heads.weighing import Weights
from lightcrl.heads.weighing import figures as hit_figures
from lightcrl.metrics.intervals import bootstrap_interval, hits
from lightcrl.tasks.base import Outcome, Setting
from lightcrl.tasks.retrieval import RANKS, RetrievalSpec, RetrievalTask
from lightcrl.training.heads import gather_material, head_features, train_head

RECIPE = Path(__file__).parents[1] / "recipes/heads/matching.toml"


def mean_recall(outcome: Outcome, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sums of hits at 1 and numbers of queries [directions, groups]."""
    sums, sizes = [], []
    for rows in outcome.items.values():
        owners = rows[:, RANKS].astype(np.int64)
        sums.append(np.bincount(owners, hits(rows[:, :RANKS], 1), groups))
        sizes.append(np.bincount(owners, minlength=groups))
    return np.stack(sums), np.stack(sizes)


def gain(before: Outcome, after: Outcome, groups: int) -> tuple[float, tuple[float, float]]:
    """Return the difference of mean R@1 and its 95 % interval over groups."""
    (first, sizes), (second, _) = (mean_recall(outcome, groups) for outcome in (before, after))

    def difference(weights: np.ndarray) -> np.ndarray:
        value: np.ndarray = ((weights @ (second - first).T) / (weights @ sizes.T)).mean(1)
        return value

    return float(difference(np.ones((1, groups)))[0]), bootstrap_interval(difference, groups)


def measure(base: Checkpoint, features: Features, seed: int, folder: Path, counts: list[int]) -> dict[str, Any]:
    """Train the head with a seed, and return figures on dev by number of reordered hits."""
    spec = HeadRecipe.read(RECIPE).heads["matching"].model_copy(update={"seed": seed})
    head = train_head(base, "matching", spec, features, folder, lambda event: None)
    base.heads["matching"] = head
    loaded = base.head("matching")
    assert isinstance(loaded, Matching)
    weights = Weights(float(loaded.local), float(loaded.weight))
    dev = hit_figures(loaded.hits(gather_material(base, features_of(loaded, features))), weights)
    setting = Setting({}, FeaturesSpec(), features=features)
    outcomes = {}
    for count in (0, *counts):
        task = RetrievalTask.prepare(RetrievalSpec(rerank=count, measures=("recall",)), setting)
        outcomes[count] = task.measure(base)
    result: dict[str, Any] = {
        "seed": seed,
        "held out": dict(head.figures["metrics"]),
        "dev": dev,
        "seconds": head.figures["seconds"],
    }
    for count, outcome in outcomes.items():
        value, interval = gain(outcomes[0], outcome, task.units)
        recall = task.result(outcome).metrics["mean_recall@1"]
        result[str(count)] = {"mean_recall@1": recall, "gain": value, "interval": list(interval)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of the run on Flickr8k")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rerank", nargs="+", type=int, default=[16, 32])
    parser.add_argument("--output", type=Path, default=Path("runs/matching"))
    given = parser.parse_args()
    embedder = lightcrl.load(given.model, device="cpu")
    base, recipe = embedder.checkpoint, embedder.checkpoint.recipe
    encoders = {name: embedder.encoder(name) for name in embedder.modalities}
    data, storage = DataSpec.model_validate(recipe["data"]), FeaturesSpec.model_validate(recipe["features"])
    features = head_features(base, encoders, data, storage, lambda event: None).in_memory(4 * 2**30)
    print("| seed | reordered | mean R@1 | gain | 95 % interval |\n|---|---|---|---|---|")
    for seed in given.seeds:
        file = make_folder(given.output) / f"seed{seed}.json"
        if not file.exists():
            write_json(file, measure(base, features, seed, given.output / "heads" / f"seed{seed}", given.rerank))
        figures = json.loads(file.read_text())
        for count in ("0", *map(str, given.rerank)):
            row = figures[count]
            ends = "{:+.4f} to {:+.4f}".format(*row["interval"])
            print(f"| {seed} | {count} | {row['mean_recall@1']:.4f} | {row['gain']:+.4f} | {ends} |")
        dev = figures["dev"]
        for name in ("pair_accuracy", "average_precision"):
            print(f"| {seed} | {name} | {dev[name]:.4f} | {dev[name] - dev['space/' + name]:+.4f} | |")
        print(f"| {seed} | weights | local {dev['local']}, residual {dev['weight']} | | |")


if __name__ == "__main__":
    main()
