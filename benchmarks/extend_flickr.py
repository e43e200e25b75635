"""Another image encoder in the place of the one that a Flickr8k space was trained with, the index untouched.

    python benchmarks/extend_flickr.py --old mobilenet --new vit --seeds 0 1 2

5,000 photographs to train on, 1,000 to test on (the last of the training file's), dev as it comes. Dev chooses
checkpoints, test nothing. Prints a Markdown row per seed; figures are in
extension.json of each folder. What is trained already is taken as it is, and so is a space that `--model` names.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import lightcrl
from lightcrl.files.local import make_folder, write_text
from lightcrl.growth.spec import GrowthRecipe
from lightcrl.recipe import make_recipe
from lightcrl.specs import parse

SHARED = Path(__file__).parents[2] / "shared"
MODELS = {"mobilenet": "mobilenet-v2", "vit": "vit-tiny-patch16-224", "text": "all-MiniLM-L6-v2"}
HELD = 1000
"""Photographs at the end of the training file that are tested on."""


def write_splits(folder: Path) -> Path:
    """One table with the split of every caption's photograph."""
    rows: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for split in ("train", "dev"):
        for line in (SHARED / f"data/flickr8k/{split}.jsonl").read_text().splitlines():
            row = json.loads(line)
            seen.setdefault(row["image"], len(seen))
            rows.append({**row, "split": split})
    trained = len({row["image"] for row in rows if row["split"] == "train"})
    for row in rows:
        if row["split"] == "train" and seen[row["image"]] >= trained - HELD:
            row["split"] = "test"
    path = make_folder(folder) / "flickr8k.jsonl"
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path


def encoder(name: str) -> dict[str, str]:
    """The table of an encoder."""
    return {
        "kind": "text" if name == "text" else "image",
        "model": str(SHARED / "models" / MODELS[name]),
        "dtype": "auto",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", choices=("mobilenet", "vit"), default="mobilenet")
    parser.add_argument("--new", choices=("mobilenet", "vit"), default="vit")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--model", type=Path, help="a space of the old encoder, by default trained here")
    parser.add_argument("--output", default="runs/extend_flickr", type=Path)
    given = parser.parse_args()
    folder = given.output.absolute()
    common = {
        "data": {
            "path": str(write_splits(folder)),
            "root": str(SHARED / "data/flickr8k"),
            "split_column": "split",
            "key": "image",
            "columns": {"image": "image", "text": "caption"},
        },
        "features": {"folder": str(folder / "features")},
    }
    encoders = {"image": encoder(given.old), "text": encoder("text")}
    model = given.model or folder / given.old
    if given.model is None:
        lightcrl.run(make_recipe({"name": given.old, "encoders": encoders, **common}), output=model)
    print("| seed | old/old | new/old | new/mixed | new/new | advice |\n|---|---|---|---|---|---|")
    for seed in given.seeds:
        recipe = parse(
            GrowthRecipe,
            {
                "name": given.new,
                "seed": seed,
                "encoders": {"image": encoder(given.new)},
                "training": {"epochs": 20, "evaluate_every": 5},
                "evaluation": {"split": "test"},
                **common,
            },
        )
        place = folder / f"{given.old}-{given.new}-{seed}"
        replacement = lightcrl.extend(model, recipe, replace="image", output=place).replacement
        assert replacement is not None
        cells = (f"{each.mean:.3f} ({each.items[0]:.3f}-{each.items[1]:.3f})" for each in replacement.recall.values())
        print(f"| {seed} | {' | '.join(cells)} | {replacement.advice} |", flush=True)


if __name__ == "__main__":
    main()
