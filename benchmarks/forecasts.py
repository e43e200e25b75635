"""Forecasts of `lightcrl check` against what training then reached, and the runs that they are calibrated on.

    python benchmarks/forecasts.py recipes/flickr8k.toml --name vit+MiniLM --groups 125 250 500 --dev 32 100 300 \\
        --seeds 0 1 --output forecasts.jsonl --seconds 440
    python benchmarks/forecasts.py --table forecasts.jsonl
    python benchmarks/forecasts.py --calibrate runs.jsonl

A run draws groups of train and of dev, takes the closed form on samples of them as `check` does (`--samples` groups of
train at most, a third as many of dev), forecasts R@1 of the recipe's method on all groups drawn and the groups for the
next target, and trains as `lightcrl run` does. `--later` trains a second time on that many times the groups, which is
the outcome of "about N more groups". Runs in the file are not repeated; a line for each sample is written after every
run. A run takes half a minute to four minutes of a core; with `--solved`, whose outcome is the closed form on all
groups, some seconds. `--calibrate` puts runs into calibration.json of the package, in place of earlier ones of the same
encoders; forecasts are to be tested on other runs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lightcrl.studies.check
from lightcrl.encoders.base import Encoder
from lightcrl.features import Features
from lightcrl.features.table import Split
from lightcrl.pipeline import prepare, train_method
from lightcrl.recipe import Recipe, load_recipe
from lightcrl.studies.check.forecast import fit, measured, predict
from lightcrl.studies.check.sample import PER_GROUP, Part
from lightcrl.studies.check.slots import select_slots
from lightcrl.studies.check.spaces import Baseline, fit_baseline

TABLE = Path(lightcrl.studies.check.__file__).with_name("calibration.json")
KEPT = ("groups", "dev", "seed", "sample")


@dataclass(frozen=True)
class Run:
    """Drawn groups of a recipe's data.

    Attributes:
        recipe: data, encoders and training.
        features: features of all groups.
        encoders: encoders by modality.
        train: numbers of the drawn training groups, in the order of the draw; later ones are for a second training.
        dev: numbers of the drawn groups of dev.
        seed: seed of the draw and of the training.
        solved: true if the outcome is the closed form on all groups, without training.
    """

    recipe: Recipe
    features: Features
    encoders: Mapping[str, Encoder]
    train: np.ndarray
    dev: np.ndarray
    seed: int
    solved: bool

    def splits(self, train: int, dev: int) -> dict[str, Split]:
        """Return the first groups of both draws."""
        train_split, dev_split = (self.features.split(name) for name in ("train", "dev"))
        return {"train": train_split.subset(self.train[:train]), "dev": dev_split.subset(self.dev[:dev])}

    def closed_form(self, train: int, dev: int, ridge: float | None = None) -> tuple[Baseline, float]:
        """Return the closed form on the first groups of both draws, and its ridge; by default that of a selection."""
        splits = self.splits(train, dev)
        parts = {
            name: {split: part(self.features, name, chosen) for split, chosen in splits.items()}
            for name in self.features.stores
        }
        slots = {name: tuple(range(len(each["train"].slots))) for name, each in parts.items()}
        first, second = parts
        if ridge is None:
            trained = {name: each["train"] for name, each in parts.items()}
            nothing = dict.fromkeys(parts, ())
            ridge = select_slots(trained, [(first, second)], len(splits["train"]), slots, nothing).ridge
        baseline = fit_baseline((parts[first], parts[second]), (slots[first], slots[second]), ridge)
        assert baseline is not None
        return baseline, ridge

    def outcome(self, groups: int) -> float:
        """Return the mean R@1 on dev after training on the first groups."""
        if self.solved:
            sample = min(groups, 300)
            _, ridge = self.closed_form(sample, max(20, sample // 3))
            return self.closed_form(groups, len(self.dev), ridge * sample / groups)[0].recall
        seen = self.features
        for name, split in self.splits(groups, len(self.dev)).items():
            seen = seen.replace_split(name, split)
        with tempfile.TemporaryDirectory() as folder:
            method = self.recipe.method
            _, trained, _ = train_method(self.recipe, method, self.seed, Path(folder), seen, self.encoders)
        return float(trained.result.metrics["mean_recall@1"])


def part(features: Features, modality: str, split: Split) -> Part:
    """Return slots and groups of at most `PER_GROUP` items a group, as a check's sample has them."""
    members, store = split.members[modality], features.store(modality)
    place = np.arange(len(members.rows)) - members.starts[members.groups]
    rows, groups = members.rows[place < PER_GROUP], members.groups[place < PER_GROUP]
    tokens = store.gather(rows, sequence=False).to("cpu", torch.float32)
    slots = list(tokens.values.unbind(1)) if store.slots > 1 else [tokens.mean()]
    return Part(slots, torch.from_numpy(groups), rows)


def measure(run: Run, groups: int, samples: list[int], *, later: bool) -> Iterator[dict[str, Any]]:
    """Yield forecast and outcome of a run, for every size of its sample."""
    alike = len(set(run.recipe.kinds.values())) == 1
    calibration = fit(measured(alike=alike))
    assert calibration is not None
    if run.solved:  # no training, hence no lead of training
        calibration = replace(calibration, weights=(0.0, 0.0, calibration.weights[2]))
    outcomes = {count: run.outcome(count) for count in {groups, len(run.train) if later else groups}}
    for size in sorted({min(groups, sample) for sample in samples}):
        line, _ = run.closed_form(size, max(20, size // 3))
        closed_form = {**line.smaller, line.gallery: line.recall}
        said = predict(calibration, closed_form, line.groups, groups, len(run.dev), line.interval)
        row = {
            "groups": groups, "dev": len(run.dev), "seed": run.seed, "sample": line.groups, "sampled_dev": line.gallery,
            "closed_form": line.recall, "closed_forms": closed_form, "interval": line.interval, "alike": alike,
            "expected": said.recall, "low": said.low, "high": said.high, "trained": outcomes[groups],
            "need": vars(said.need),
        }  # fmt: skip
        if later:
            most = len(run.train)
            row |= {"later": most, "trained_later": outcomes[most]}
            row |= {"expected_later": predict(calibration, closed_form, line.groups, most, len(run.dev)).recall}
        yield row


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def forecast_again(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with the forecast of today's fit from its closed form."""
    calibration = fit(measured(alike=row["alike"]))
    assert calibration is not None
    closed_form = {int(size): value for size, value in row["closed_forms"].items()}
    said = predict(calibration, closed_form, row["sample"], row["groups"], row["dev"], tuple(row["interval"]))
    return {**row, "expected": said.recall, "low": said.low, "high": said.high}


def table(path: Path) -> None:
    """Print the runs of a file, their forecasts by today's fit, and how many outcomes lie in their interval."""
    rows = [forecast_again(row) for row in read(path)]
    print("| encoders, data | groups | dev | sample | closed form | forecast | trained | within |")
    print("|---|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row["name"], row["groups"], row["dev"], row["seed"], row["sample"])):
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


def calibrate(path: Path) -> None:
    """Put the runs of a file into the package's table, in place of those of the same encoders and data."""
    rows = read(path)
    new = [
        {
            "encoders": row["name"],
            **{key: row[key] for key in KEPT},
            "trained": round(row["trained"], 4),
            "closed_form": {size: round(recall, 4) for size, recall in row["closed_forms"].items()},
            "interval": [round(end, 4) for end in row["interval"]],
            "alike": row["alike"],
        }
        for row in rows
    ]
    names = {point["encoders"] for point in new}
    old = [point for point in json.loads(TABLE.read_text())["points"] if point["encoders"] not in names]
    points = sorted([*old, *new], key=lambda point: (point["encoders"], *(point[key] for key in KEPT)))
    TABLE.write_text(json.dumps({"points": points}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("--name", default="")
    parser.add_argument("--groups", type=int, nargs="+", default=[125, 250, 500])
    parser.add_argument("--dev", type=int, nargs="+", default=[32, 100, 300])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[300], help="groups of train that a check looks at")
    parser.add_argument("--later", type=float, default=1, help="train again on this many times the groups")
    parser.add_argument("--solved", action="store_true", help="the outcome is the closed form on all groups drawn")
    parser.add_argument("--seconds", type=float, default=440, help="begin no run after this time")
    parser.add_argument("--output", type=Path, default=Path("forecasts.jsonl"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--table", type=Path, help="print the table of a file, and measure nothing")
    parser.add_argument("--calibrate", type=Path, help="put a file's runs into the package, and measure nothing")
    given = parser.parse_args()
    if given.table or given.calibrate:
        table(given.table) if given.table else calibrate(given.calibrate)
        return
    begun = time.monotonic()
    recipe = load_recipe(given.recipe, ["training.tensorboard=false", *given.overrides])
    name = given.name or recipe.name
    done = (
        {(row["name"], row["groups"], row["dev"], row["seed"]) for row in read(given.output)}
        if given.output.exists()
        else set()
    )
    features, encoders, _ = prepare(recipe)
    usable = {split: features.split(split).usable for split in ("train", "dev")}
    for seed, groups, dev in product(given.seeds, given.groups, given.dev):
        groups, dev = min(groups, len(usable["train"])), min(dev, len(usable["dev"]))
        if (name, groups, dev, seed) in done or time.monotonic() - begun > given.seconds:
            continue
        done.add((name, groups, dev, seed))
        generator = np.random.default_rng([seed, groups, dev])
        train = generator.permutation(usable["train"])[: round(groups * max(1, given.later))]
        judged = generator.permutation(usable["dev"])[:dev]
        run = Run(recipe, features, encoders, train, judged, seed, given.solved)
        rows = [{"name": name, **row} for row in measure(run, groups, given.samples, later=given.later > 1)]
        with given.output.open("a") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
        print(*map(json.dumps, rows), sep="\n", flush=True)


if __name__ == "__main__":
    main()
