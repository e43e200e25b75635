"""R@1 on features of fewer bytes: variants of a recipe, each trained with the same seeds, against the first of them.

    python benchmarks/feature_bytes.py recipes/flickr8k.toml --folder runs/bytes --method linear \\
        --variant float16 --variant int8 features.dtype=int8

A variant is a name and changes of the recipe's keys. Its features are encoded once, into the recipe's folder. Every
training leaves its outcome in `--folder`, so the same command resumes; `--most N` ends after N trainings. Embeddings
are corrected for hubs, as the recipe says. Intervals are 95 %: of means over seeds and groups of dev, of differences
for the same seeds and groups.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from block_shuffle import dev_hits

from lightcrl.encoders.base import Encoder
from lightcrl.features import Features
from lightcrl.methods.spec import MethodSpec
from lightcrl.metrics.statistics import bootstrap_ratios, draws, estimate
from lightcrl.pipeline import prepare, train_method
from lightcrl.recipe import Recipe, load_recipe


def some(features: Features, train: int | None, dev: int | None) -> Features:
    """Return the features with the first groups of both splits."""
    for name, count in (("train", train), ("dev", dev)):
        if count is not None:
            split = features.split(name)
            features = features.replace_split(name, split.subset(np.arange(min(count, len(split)))))
    return features


def outcome(
    recipe: Recipe, method: str, seed: int, features: Features, encoders: Mapping[str, Encoder], folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Train, and return its hits on dev (`dev_hits`)."""
    checkpoint, _, _ = train_method(recipe, MethodSpec(name=method), seed, folder, features, encoders)
    return dev_hits(checkpoint.method, features)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="data, encoders and training")
    parser.add_argument("--variant", nargs="+", action="append", metavar="NAME KEY=VALUE", required=True)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the outcomes")
    parser.add_argument("--method", default="dfe")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--train", type=int, help="number of groups; all by default")
    parser.add_argument("--dev", type=int, help="number of groups; all by default")
    parser.add_argument("--most", type=int, default=10**6, help="number of trainings; 0 encodes only")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    boot: dict[str, np.ndarray] = {}
    kept: dict[str, np.ndarray] = {}
    sizes: dict[str, str] = {}
    done = 0
    for name, *overrides in given.variant:
        recipe = load_recipe(given.recipe, ["training.tensorboard=false", *overrides])
        whole, encoders, _ = prepare(recipe)
        stored = [store.nbytes for store in whole.stores.values()]
        sizes[name] = " + ".join(f"{size / 2**20:.1f}" for size in stored)
        features = some(whole.in_memory(recipe.training.memory_bytes), given.train, given.dev)
        runs = []
        for seed in given.seeds:
            file = given.folder / f"{given.method}-{given.train}-{given.dev}-{name}-{seed}.npz"
            if not file.exists():
                if done == given.most:
                    continue
                done += 1
                run = outcome(recipe, given.method, seed, features, encoders, file.with_suffix(""))
                np.savez(file, sums=run[0], sizes=run[1])
            with np.load(file) as held:
                runs.append((held["sums"], held["sizes"]))
            print(name, seed, round(float((runs[-1][0].sum(1) / runs[-1][1].sum(1)).mean()), 4), flush=True)
        if len(runs) < len(given.seeds):
            continue
        kept[name] = np.array([(sums.sum(1) / count.sum(1)).mean() for sums, count in runs])
        boot[name] = bootstrap_ratios(np.mean([sums for sums, _ in runs], axis=0), runs[0][1]).mean(1)
    if len(kept) < len(given.variant):
        return
    first = given.variant[0][0]
    print(f"\n| {given.method} on | MiB | mean R@1 | less {first} |\n|---|---|---|---|")
    for name, values in kept.items():
        mean = estimate(draws(values, boot[name], 0))
        cells = [name, sizes[name], f"{mean.mean:.4f} ({mean.both[0]:.4f} to {mean.both[1]:.4f})", ""]
        if name != first:
            paired = draws(values - kept[first], boot[name] - boot[first], 0)
            low, high = np.quantile(paired.both, [0.025, 0.975])
            cells[3] = f"{paired.mean:+.4f} ({low:+.4f} to {high:+.4f})"
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
