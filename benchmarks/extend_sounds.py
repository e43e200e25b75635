"""ESC-10 sounds added, through the names of their classes, to a space of Flickr8k's pictures and captions.

    python benchmarks/extend_sounds.py --model runs/flickr8k

Fold k is classified unseen, fold k + 1 is dev, the other three are trained on, as in benchmarks/sounds.py.
Prints top-1 of all sounds with its 95 % interval over sounds, and writes gallery.html of the first fold: what the old
pictures of Flickr8k are to sounds that they never met. What is trained already is taken as it is.
"""

from __future__ import annotations

import argparse
import html
import sys
from pathlib import Path

import numpy as np

import lightcrl
from lightcrl.features.spec import FeaturesSpec
from lightcrl.files.local import write_json, write_text
from lightcrl.growth.spec import GrowthRecipe
from lightcrl.metrics.intervals import mean_interval
from lightcrl.specs import parse
from lightcrl.tasks.base import EMBEDDING, Setting, prepare_task
from lightcrl.tasks.zero_shot import ZeroShotSpec

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
FOLDS = (1, 2, 3, 4, 5)
SHOWN = 5


def recipe_of(fold: int, seed: int, features: Path) -> GrowthRecipe:
    """The extension that leaves a fold unseen."""
    named = {fold: "test", FOLDS[fold % len(FOLDS)]: "dev"}
    splits = {f"{at}-*": named.get(at, "train") for at in FOLDS}
    options = {"template": "the sound of a {}.", "splits": splits}
    sound = {"kind": "audio", "model": "examples.yamnet:YAMNet", "options": {"folder": str(SHARED / "models/yamnet")}}
    table = {
        "name": f"sound-{fold}-{seed}",
        "seed": seed,
        "partners": ["text"],
        "data": {"source": "folder", "path": str(SHARED / "data/esc10"), "options": options},
        "encoders": {"sound": sound},
        "features": {"folder": str(features)},
        "training": {"tensorboard": False},
    }
    recipe: GrowthRecipe = parse(GrowthRecipe, table)
    return recipe


def gallery(folder: Path, model: Path, fold: int, count: int) -> None:
    """Write a page with a sound of each class and the nearest of `count` pictures of Flickr8k's dev split."""
    embedder = lightcrl.load(model)
    pictures = sorted({line.split('"')[3] for line in (SHARED / "data/flickr8k/dev.jsonl").read_text().splitlines()})
    paths = [SHARED / "data/flickr8k" / name for name in pictures[:count]]
    sounds = [
        sorted(place.glob(f"{fold}-*"))[0] for place in sorted((SHARED / "data/esc10").iterdir()) if place.is_dir()
    ]
    similarity = embedder.encode(sounds, "sound") @ embedder.encode(paths, "image").T
    rows = []
    for sound, line in zip(sounds, similarity, strict=True):
        best = np.argsort(-line)[:SHOWN]
        cells = "".join(f'<img src="{paths[at].as_uri()}" width="150" title="{line[at]:.2f}">' for at in best)
        rows.append(f"<h2>{html.escape(sound.parent.name)}</h2><p>{cells}</p>")
    write_text(folder / "gallery.html", f"<meta charset=utf-8><h1>Sound to picture, fold {fold}</h1>{''.join(rows)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="a run on Flickr8k, such as recipes/flickr8k.toml")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--output", default="runs/extend_sounds", type=Path)
    parser.add_argument("--folds", nargs="+", type=int, default=list(FOLDS))
    parser.add_argument("--gallery", type=int, metavar="N", help="also write gallery.html, with N pictures")
    given = parser.parse_args()
    sys.path.append(str(ROOT))  # of examples.yamnet
    folder, features = given.output.absolute(), given.output.absolute() / "features"
    rows = []
    for seed in given.seeds:
        hits = []
        for fold in given.folds:
            done = lightcrl.extend(given.model, recipe_of(fold, seed, features), output=folder / f"{fold}-{seed}")
            embedder = lightcrl.load(done.folder)
            encoders = {name: embedder.encoder(name) for name in ("sound", "text")}
            spec = ZeroShotSpec(data=str(SHARED / "data/esc10"), files=f"{fold}-*", modality="sound")
            task = prepare_task("zero_shot", spec, Setting(encoders, FeaturesSpec(folder=str(features))))
            hits.append(task.measure(embedder.checkpoint).items[EMBEDDING][0])
            proved = (
                f"{done.proof.leaves} tensors and embeddings of {', '.join(done.proof.modalities)} equal to the bit"
            )
            print(f"seed {seed}, fold {fold}: {hits[-1].mean():.3f}; {proved}", flush=True)
        rows.append(np.concatenate(hits))
    mean = np.mean(rows, 0)
    low, high = mean_interval(mean, np.arange(len(mean)))
    print(f"| {len(given.seeds)} seeds | {mean.mean():.3f} ({low:.3f}-{high:.3f}) |")
    write_json(folder / "sounds.json", {"top1": float(mean.mean()), "interval": [low, high]})
    if given.gallery:
        fold = given.folds[0]
        gallery(folder, folder / f"{fold}-{given.seeds[0]}", fold, given.gallery)


if __name__ == "__main__":
    main()
