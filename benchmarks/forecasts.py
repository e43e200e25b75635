"""Forecasts of `lightcrl check` against what training then reached, on runs that were not used to calibrate them.

    python benchmarks/forecasts.py recipes/flickr8k.toml --name vit+MiniLM --groups 125 250 500 --dev 32 100 300 \\
        --seeds 0 1 --output forecasts.jsonl --seconds 440
    python benchmarks/forecasts.py --table forecasts.jsonl

A run draws groups of train and of dev, takes the closed form on a sample of them as `check` does (`--sample` groups of
train at most, a third as many of dev), forecasts R@1 of the recipe's method on all groups drawn and the groups for the
next target, and trains. `--later` trains a second time on that many times the groups, which is the outcome of "about N
more groups". Runs in the file are not repeated; a line is written after every run. Without sequences (`--pooled`) a run
takes half a minute; with `--solved`, whose outcome is the closed form on all groups, some seconds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightcrl.checkpoint import Checkpoint
from lightcrl.data import load_dataset
from lightcrl.encoders import load_encoder
from lightcrl.features import Features, FeatureStore
from lightcrl.features.extract import encode_each
from lightcrl.features.table import Split
from lightcrl.methods import METHODS
from lightcrl.methods.spec import make_method
from lightcrl.recipe import Recipe, load_recipe
from lightcrl.studies.check.forecast import fit, measured, predict
from lightcrl.studies.check.sample import PER_GROUP, Part
from lightcrl.studies.check.slots import select_slots
from lightcrl.studies.check.spaces import fit_baseline
from lightcrl.tokens import TokenSpec
from lightcrl.training.loop import train


def part(features: Features, modality: str, split: Split) -> Part:
    """Return slots and groups of at most `PER_GROUP` items a group, as a check's sample has them."""
    members, store = split.members[modality], features.store(modality)
    place = np.arange(len(members.rows)) - members.starts[members.groups]
    rows, groups = members.rows[place < PER_GROUP], members.groups[place < PER_GROUP]
    tokens = store.gather(rows, sequence=False).to("cpu", torch.float32)
    slots = list(tokens.values.unbind(1)) if store.slots > 1 else [tokens.mean()]
    return Part(slots, torch.from_numpy(groups), rows)


def drawn(split: Split, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return the numbers of some usable groups, in the order of the draw."""
    return generator.permutation(split.usable)[:count]


def trained(recipe: Recipe, features: Features, seed: int, pooled: bool) -> float:
    """Train the recipe's method on the split `train`, and return the mean R@1 on `dev` at its best."""
    kind, spec = METHODS.load(recipe.method.name), recipe.training.model_copy(update={"tensorboard": False})
    shapes = {m: TokenSpec(s.dim, s.slots) if pooled else s for m, s in features.specs.items()}
    method = make_method(recipe.method.name, shapes, recipe.method.options, spec.suited(kind).loss, seed)
    if pooled:
        method.sequences = False  # type: ignore[misc]
    encoders = recipe.encoders
    checkpoint = Checkpoint(
        method, name=recipe.method.name, loss="info_nce", encoders=encoders, fingerprints=dict.fromkeys(encoders, "f")
    )
    with tempfile.TemporaryDirectory() as folder:
        return float(train(checkpoint, features, spec, Path(folder), seed=seed).result.metrics["mean_recall@1"])


def solved(features: Features, slots: dict[str, tuple[int, ...]], ridge: float) -> float:
    """Return the mean R@1 on `dev` of the closed form on the split `train`."""
    parts = [{s: part(features, name, features.split(s)) for s in ("train", "dev")} for name in slots]
    first, second = slots.values()
    line = fit_baseline((parts[0], parts[1]), (first, second), ridge)
    assert line is not None
    return line.recall


def measure(recipe: Recipe, features: Features, groups: int, dev: int, seed: int, given: argparse.Namespace) -> Any:
    """Return forecast and outcome of one run."""
    generator = np.random.default_rng([seed, groups, dev])
    order = drawn(features.split("train"), round(groups * max(1, given.later)), generator)
    judged = drawn(features.split("dev"), dev, generator)
    sample = min(len(order[:groups]), given.sample)
    names = list(features.stores)
    some = {"train": features.split("train").subset(order[:sample])}
    some["dev"] = features.split("dev").subset(judged[: max(20, sample // 3)])
    parts = [{split: part(features, name, each) for split, each in some.items()} for name in names]
    slots = [tuple(range(len(each["train"].slots))) for each in parts]
    chosen = dict(zip(names, slots, strict=True))
    ridge = select_slots(
        {name: each["train"] for name, each in zip(names, parts, strict=True)}, [(names[0], names[1])],
        len(some["train"]), chosen, dict.fromkeys(names, ()),
    ).ridge  # fmt: skip
    line = fit_baseline((parts[0], parts[1]), (slots[0], slots[1]), ridge)
    calibration = fit(measured(alike=len(set(recipe.kinds.values())) == 1))
    assert line is not None
    assert calibration is not None
    if given.solved:  # no training, hence no lead of training
        calibration = replace(calibration, weights=(0.0, 0.0, calibration.weights[2]))
    closed_form = {**line.smaller, line.gallery: line.recall}
    count, gallery = len(order[:groups]), len(judged)
    said = predict(calibration, closed_form, line.groups, count, gallery, line.interval)
    own = features.replace_split("dev", features.split("dev").subset(judged))

    def outcome(numbers: np.ndarray) -> float:
        seen = own.replace_split("train", own.split("train").subset(numbers))
        return (
            solved(seen, chosen, ridge * sample / len(numbers))
            if given.solved
            else trained(recipe, seen, seed, given.pooled)
        )

    reached = outcome(order[:groups])
    row = {
        "groups": count, "dev": gallery, "seed": seed, "sample": line.groups, "sampled_dev": line.gallery,
        "closed_form": line.recall, "closed_forms": closed_form, "interval": line.interval, "expected": said.recall,
        "low": said.low, "high": said.high, "trained": reached, "need": vars(said.need),
    }  # fmt: skip
    if given.later > 1:
        row |= {"later": len(order), "trained_later": outcome(order)}
        row |= {"expected_later": predict(calibration, closed_form, line.groups, len(order), gallery).recall}
    return row


def table(path: Path) -> None:
    """Print the runs of a file, and how many outcomes lie in their interval."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    print("| encoders, data | groups | dev | sample | closed form | forecast | trained | within |")
    print("|---|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row["name"], row["groups"], row["dev"], row["seed"])):
        within = row["low"] <= row["trained"] <= row["high"]
        said = f"{row['expected']:.3f} ({row['low']:.3f}-{row['high']:.3f})"
        print(
            f"| {row['name']} | {row['groups']:,} | {row['dev']:,} | {row['sample']}, {row['sampled_dev']} "
            f"| {row['closed_form']:.3f} | {said} | {row['trained']:.3f} | {'yes' if within else 'no'} |"
        )
    hits = sum(row["low"] <= row["trained"] <= row["high"] for row in rows)
    errors = [row["trained"] - row["expected"] for row in rows]
    print(
        f"\n{hits} of {len(rows)} within; error {np.mean(errors):+.3f} on average, {np.std(errors):.3f} its deviation"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("--name", default="")
    parser.add_argument("--groups", type=int, nargs="+", default=[125, 250, 500])
    parser.add_argument("--dev", type=int, nargs="+", default=[32, 100, 300])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sample", type=int, default=300, help="groups of train that the check looks at")
    parser.add_argument("--later", type=float, default=1, help="train again on this many times the groups")
    parser.add_argument("--stores", nargs="+", default=[], metavar="MODALITY=FOLDER", help="features that are there")
    parser.add_argument("--solved", action="store_true", help="the outcome is the closed form on all groups drawn")
    parser.add_argument("--pooled", action="store_true", help="without the tokens after the slots")
    parser.add_argument("--seconds", type=float, default=440, help="begin no run after this time")
    parser.add_argument("--output", type=Path, default=Path("forecasts.jsonl"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--table", type=Path, help="print the table of a file, and measure nothing")
    given = parser.parse_args()
    if given.table:
        table(given.table)
        return
    begun = time.monotonic()
    recipe = load_recipe(given.recipe, given.overrides)
    name = given.name or recipe.name
    there = [json.loads(line) for line in given.output.read_text().splitlines()] if given.output.exists() else []
    done = {(row["name"], row["groups"], row["dev"], row["seed"]) for row in there}
    stores = {modality: FeatureStore(folder) for modality, folder in (each.split("=", 1) for each in given.stores)}
    if not stores:
        encoders = {modality: load_encoder(spec) for modality, spec in recipe.encoders.items()}
        stores, _ = encode_each(encoders, load_dataset(recipe.data, recipe.kinds), recipe.features, lambda event: None)
    features = Features(stores)
    for seed, groups, dev in product(given.seeds, given.groups, given.dev):
        groups, dev = (min(count, len(features.split(s).usable)) for s, count in (("train", groups), ("dev", dev)))
        if (name, groups, dev, seed) in done or time.monotonic() - begun > given.seconds:
            continue
        done.add((name, groups, dev, seed))
        row = {"name": name, **measure(recipe, features, groups, dev, seed, given)}
        with given.output.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
