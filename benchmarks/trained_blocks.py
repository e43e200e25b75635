"""Frozen encoders against trained last blocks, for the same number of processor seconds.

    python benchmarks/trained_blocks.py ../shared --work runs/trained_blocks --groups 2000 6000 --seeds 0 --seconds 120

Each variant trains the default DFE of recipes/flickr8k.toml on the same groups, batches of `--batch` groups with a
caption each, in as many whole passes as fit into `--seconds` of processor time: a few steps are timed first, and the
schedule has that length. Dev is measured once, at the end. States are stored beside the features before, which is not
counted, as encoding is not. Results are kept in the folder: a second call goes on where the first ended.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from time_to_recall import recipe_of

from lightcrl.encoders.base import Encoder
from lightcrl.features import Features
from lightcrl.files.local import write_json
from lightcrl.pipeline import prepare, train_method
from lightcrl.recipe import Recipe, make_recipe
from lightcrl.training.plan import make_plan

VARIANTS: Mapping[str, dict[str, Any]] = {
    "frozen": {},
    "blocks": {"text": {"blocks": 2}},
    "blocks-fast": {"text": {"blocks": 2, "learning_rate": 2e-4}},
    "lora": {"text": {"blocks": 2, "lora": 8}},
    "lora-fast": {"text": {"blocks": 2, "lora": 8, "learning_rate": 2e-3}},
    "image-blocks": {"image": {"blocks": 2, "crop": 1.0}},
    "image-lora": {"image": {"blocks": 2, "lora": 8, "crop": 1.0}},
}
TIMED = 4


class TimedError(Exception):
    """Enough steps are timed."""


def variant_of(recipe: Recipe, variant: str, **training: Any) -> Recipe:
    """Return the recipe with a variant's tuning and other training settings."""
    table = recipe.model_dump(mode="json") | {"tuning": VARIANTS[variant]}
    table["training"] |= training
    return make_recipe(table)


def seconds_of_a_step(recipe: Recipe, place: Path, features: Features, encoders: Mapping[str, Encoder]) -> float:
    """Return the median processor seconds of the first steps, the very first left out."""
    times = list[float]()

    def watch(event: Mapping[str, Any]) -> None:
        if event["event"] == "step":
            times.append(time.process_time())
            if len(times) > TIMED:
                raise TimedError

    with suppress(TimedError):
        train_method(recipe, recipe.method, 0, place, features, encoders, watch)
    return statistics.median(np.diff(times).tolist())


def cells(given: argparse.Namespace) -> Iterator[tuple[str, int, int]]:
    """Yield variant, number of groups and seed of each result, the cheapest questions first."""
    for seed in given.seeds:
        for groups in given.groups:
            for variant in given.variants:
                yield variant, groups, seed


def measure(recipe: Recipe, variant: str, groups: int, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train a variant for the given seconds, and return its dev mean R@1, steps and seconds."""
    usual = {"batch_size": given.batch, "items_per_group": 1, "tensorboard": False, "device": "cpu"}
    tuned = variant_of(recipe, variant, **usual)
    features, encoders, _ = prepare(tuned)
    split = features.split("train")
    order = np.random.default_rng([seed, len(split)]).permutation(split.usable)
    features = features.replace_split("train", split.subset(order[:groups])).in_memory(tuned.training.memory_bytes)
    place = given.work / f"{variant}-{groups}-seed{seed}-{given.seconds:g}s"
    step = seconds_of_a_step(variant_of(recipe, variant, **usual, epochs=100), place / "timed", features, encoders)
    per_epoch = make_plan(tuned.training, features.split("train")).steps_per_epoch
    epochs = max(1, int(given.seconds / step / per_epoch))
    planned = variant_of(recipe, variant, **usual, epochs=epochs, evaluate_every=epochs)
    begun = time.process_time()
    checkpoint, trained, _ = train_method(planned, planned.method, seed, place / "run", features, encoders)
    return {
        "variant": variant,
        "groups": groups,
        "seed": seed,
        "seconds_a_step": step,
        "steps": trained.progress.step,
        "dev_mean_recall@1": trained.result.metrics["mean_recall@1"],
        "interval": trained.result.interval.get("mean_recall@1"),
        "parameters": sum(checkpoint.parts().values()),
        "seconds": time.process_time() - begun,
    }


def main() -> None:
    """Measure all cells that are not there yet, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--features", help="folder of feature stores; below --work by default")
    parser.add_argument("--groups", type=int, nargs="+", default=[2000, 6000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["frozen", "blocks", "lora"])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--batch", type=int, default=512)
    given = parser.parse_args()
    recipe = recipe_of(given.shared.resolve(), given.features or str(given.work / "features"))
    recipe = make_recipe(recipe.model_dump(mode="json") | {"evaluation": {}})
    for variant, groups, seed in cells(given):
        file = given.work / f"{variant}-{groups}-seed{seed}-{given.seconds:g}s.json"
        if not file.exists():
            given.work.mkdir(parents=True, exist_ok=True)
            write_json(file, measure(recipe, variant, groups, seed, given))
        print(json.dumps(json.loads(file.read_text())), flush=True)


if __name__ == "__main__":
    main()
