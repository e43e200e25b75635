"""Calibration points of `lightcrl check`: the closed form on a sample, and the trained DFE.

    python benchmarks/calibrate.py recipes/flickr8k.toml --groups 500 2000 --samples 400 1200 --name vit-tiny+MiniLM-L6

For every size, that number of train groups is drawn. The check examines samples of them; then the recipe's method is
trained on all of them and measured on all of dev. The points are added to calibration.json of the package; a point
replaces an earlier point of the same encoders, groups and sample. Time: two to ten minutes per size on one core, with
encoded features.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

import lightcrl.studies.check
from lightcrl.data import Dataset, load_dataset
from lightcrl.encoders import load_encoder
from lightcrl.features import Features
from lightcrl.features.extract import encode_modality
from lightcrl.pipeline import train_one
from lightcrl.recipe import load_recipe
from lightcrl.studies.check.check import examine
from lightcrl.tasks.base import Setting, prepare_task
from lightcrl.tasks.retrieval import RetrievalSpec
from lightcrl.tasks.spec import RETRIEVAL

TABLE = Path(lightcrl.studies.check.__file__).with_name("calibration.json")


def subset(dataset: Dataset, groups: int, seed: int) -> Dataset:
    """Return the data set with `groups` of its training groups and all of dev."""
    splits = np.array(dataset.splits)
    train = np.random.default_rng(seed).permutation(np.flatnonzero(splits == "train"))[:groups]
    kept = np.sort(np.concatenate([train, np.flatnonzero(splits == "dev")]))
    place = np.full(len(splits), -1)
    place[kept] = np.arange(len(kept))
    items, links = {}, {}
    for modality, old in dataset.links.items():
        mine = old[place[old[:, 1]] >= 0]
        used, item = np.unique(mine[:, 0], return_inverse=True)
        items[modality] = [dataset.items[modality][n] for n in used]
        links[modality] = np.stack([item, place[mine[:, 1]]], 1)
    return Dataset([dataset.groups[n] for n in kept], [dataset.splits[n] for n in kept], items, links)


def main() -> None:
    """Measure all points and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--groups", type=int, nargs="+", required=True, help="groups of train, one run each")
    parser.add_argument("--samples", type=int, nargs="+", default=[400, 1200], help="groups that a check looks at")
    parser.add_argument("--name", required=True, help="of the encoders")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE")
    given = parser.parse_args()
    recipe = load_recipe(given.recipe, given.overrides)
    whole = load_dataset(recipe.data, recipe.kinds)
    encoders = {modality: load_encoder(spec) for modality, spec in recipe.encoders.items()}
    for groups in given.groups:
        dataset = subset(whole, groups, seed=0)
        points = []
        for sample in sorted({min(sample, groups) for sample in given.samples}):
            check = examine(dataset, encoders, recipe.features, size=sample)
            lines = [match.baseline for match in check.matches.values() if match.baseline]
            if len(lines) != 1:
                raise SystemExit(f"{len(lines)} pairs of modalities; expected one.")
            closed_form = {**lines[0].smaller, lines[0].gallery: lines[0].recall}
            points.append({"sample": lines[0].groups, "closed_form": closed_form})
            print(f"{groups} groups, sample {sample}: closed form {lines[0].recall:.3f}", flush=True)
        stores = {
            name: encode_modality(encoder, dataset, name, recipe.features, lambda event: None).store
            for name, encoder in encoders.items()
        }
        features = Features(stores)
        with tempfile.TemporaryDirectory() as folder:
            setting = Setting(encoders, recipe.features, data=recipe.data, features=features)
            tasks = {RETRIEVAL: prepare_task(RETRIEVAL, RetrievalSpec(), setting)}
            model = train_one(recipe, recipe.method, 0, Path(folder), setting, tasks)
        trained = model.retrieval.metrics["mean_recall@1"]
        print(f"{groups} groups: trained {trained:.3f} in {model.seconds:.0f} s", flush=True)
        shared = {
            "encoders": given.name,
            "data": recipe.name,
            "groups": groups,
            "gallery": len(features.split("dev")),
            "trained": round(trained, 4),
            "method": recipe.method.name,
            "alike": len({encoder.kind for encoder in encoders.values()}) == 1,
        }
        write([{**shared, **point} for point in points])


def write(points: list[dict]) -> None:
    """Add points to the table; they replace points of the same run and sample."""
    table = json.loads(TABLE.read_text())

    def key(point: dict) -> tuple:
        return point["encoders"], point["data"], point["groups"], point["gallery"], point["sample"]

    new = {key(point) for point in points}
    table["points"] = sorted([*(old for old in table["points"] if key(old) not in new), *points], key=key)
    TABLE.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
