"""A second text encoder, stories260K, added to a space of Flickr8k's photographs and captions through captions alone.

    python benchmarks/extend_stories.py --photographs 1000

Beside it, on the same photographs: a space of all three encoders from the start, and one of photographs and
stories260K alone. R@1 between photographs and captions by stories260K, mean of both directions, on 1,000 test pictures
that chose nothing; 95 % intervals over photographs, differences paired. What is trained already is taken as it is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from extend_flickr import SHARED, encoder, write_splits
from extend_world import hit_sums, only, recall, shown

import lightcrl
from lightcrl.checkpoint import load_checkpoint
from lightcrl.features.embed import embed_split
from lightcrl.files.local import write_json, write_text
from lightcrl.growth.spec import GrowthRecipe
from lightcrl.metrics.statistics import difference
from lightcrl.pipeline import prepare
from lightcrl.recipe import make_recipe
from lightcrl.specs import parse

PAIR = ("image", "story")


def fewer(table: Path, photographs: int) -> Path:
    """A table with the captions of the first photographs of the training split, and all others."""
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    kept = set(list(dict.fromkeys(row["image"] for row in rows if row["split"] == "train"))[:photographs])
    path = table.with_name(f"flickr8k-{photographs}.jsonl")
    lines = (json.dumps(row) for row in rows if row["split"] != "train" or row["image"] in kept)
    write_text(path, "".join(f"{line}\n" for line in lines))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=5000, help="photographs to train on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--features", type=Path, help="folder of features, by default in the output's")
    parser.add_argument("--output", default="runs/extend_stories", type=Path)
    given = parser.parse_args()
    folder = given.output.absolute()
    story = {"kind": "text", "model": str(SHARED / "models/stories260K")}
    encoders = {"image": encoder("vit"), "text": encoder("text"), "story": story}
    table = str(fewer(write_splits(folder), given.photographs))

    def common(*names: str) -> dict[str, Any]:
        columns = {name: "image" if name == "image" else "caption" for name in names}
        places = {"path": table, "root": str(SHARED / "data/flickr8k")}
        return {
            "data": {**places, "split_column": "split", "key": "image", "columns": columns},
            "features": {"folder": str(given.features or folder / "features")},
            "training": {"evaluate_every": 5, "tensorboard": False},
        }

    def run(*names: str) -> dict[str, Any]:
        return {"name": "-".join(names), "encoders": {name: encoders[name] for name in names}, **common(*names)}

    def space(*names: str) -> Path:
        place = folder / f"{'-'.join(names)}-{given.photographs}-{given.seed}"
        lightcrl.run(make_recipe(run(*names) | {"evaluation": {"seeds": [given.seed]}}), output=place)
        return place

    added = parse(
        GrowthRecipe,
        {
            "name": "stories",
            "seed": given.seed,
            "partners": ["text"],
            "encoders": {"story": story},
            "evaluation": {"others": ["image"], "split": "test"},
            **common(*encoders),
        },
    )
    base = space("image", "text")
    grown = folder / f"added-{given.photographs}-{given.seed}"
    lightcrl.extend(base, added, output=grown)
    places = {
        "added through captions": grown,
        "all three from the start": space("image", "text", "story"),
        "photographs and stories260K alone": space(*PAIR),
    }
    features, _, _ = prepare(make_recipe(run(*PAIR)))
    pair, figures, first = only(features, PAIR), {}, None
    print("| space | R@1 between photographs and stories260K's captions | added minus this |\n|---|---|---|")
    for label, place in places.items():
        vectors, links = embed_split(load_checkpoint(place).method, pair, pair.split("test"))
        figure = recall([hit_sums(vectors, links, PAIR)])
        first = figure if first is None else first
        less = difference(first, figure)
        low, high = less.interval
        print(f"| {label} | {shown(figure)} | {less.mean:+.3f} ({low:+.3f} to {high:+.3f}) |", flush=True)
        figures[label] = {"recall@1": figure.mean, "added_minus_this": [less.mean, low, high]}
    write_json(folder / f"stories-{given.photographs}-{given.seed}.json", figures)


if __name__ == "__main__":
    main()
