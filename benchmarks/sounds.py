"""Sounds and text: zero-shot classification of ESC-10, each fold by models trained on three other folds.

    python benchmarks/sounds.py --methods dfe linear --seeds 0 1 2

Fold k is classified, fold k + 1 is dev, the other three are trained on: five runs of recipes/sound_text.toml. Prints
a Markdown table (a line per method: top-1 of all sounds, each classified by a model trained without its fold, mean
over seeds, 95 % interval over sounds) and writes it as JSON. Finished encodings and trainings are reused.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

import lightcrl
from lightcrl.files.local import write_json
from lightcrl.metrics.intervals import mean_interval
from lightcrl.tasks.base import EMBEDDING, Setting, prepare_task

ROOT = Path(__file__).parents[1]
FOLDS = (1, 2, 3, 4, 5)


def splits_of(fold: int) -> dict[str, str]:
    """Return patterns of file names that reserve `fold` for testing."""
    named = {fold: "test", FOLDS[fold % len(FOLDS)]: "dev"}
    return {f"{at}-*": named.get(at, "train") for at in FOLDS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=str(ROOT / "recipes/sound_text.toml"))
    parser.add_argument("--methods", nargs="+", default=["dfe", "linear"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", default="runs/sounds", help="folder of the five runs and of sounds.json")
    parser.add_argument("--set", nargs="*", default=[], help="section.key=value for the recipe")
    given = parser.parse_args()
    sys.path.append(str(ROOT))  # of examples.yamnet

    first, *others = given.methods
    overrides = [f"method.name={first}", f"evaluation.baselines={others}", f"evaluation.seeds={given.seeds}"]
    hits_of: dict[str, dict[int, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for fold in FOLDS:
        files = f"evaluation.zero_shot.files={fold}-*"
        recipe = lightcrl.load_recipe(given.recipe, [*overrides, files, *given.set], Path(given.output) / f"fold{fold}")
        options = recipe.data.options | {"splits": splits_of(fold)}
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"options": options})})
        done = lightcrl.run(recipe)
        assert recipe.evaluation.zero_shot is not None
        trained = [lightcrl.load(model.folder) for model in done.models]
        encoders = {name: trained[0].encoder(name) for name in recipe.encoders}
        task = prepare_task("zero_shot", recipe.evaluation.zero_shot, Setting(encoders, recipe.features))
        for model, embedder in zip(done.models, trained, strict=True):
            hits_of[model.method][model.seed].append(task.measure(embedder.checkpoint).items[EMBEDDING][0])

    rows = []
    for method, by_seed in hits_of.items():
        # The order of folds, and so of sounds, is the same for every seed.
        by_sound = np.stack([np.concatenate(folds) for folds in by_seed.values()])
        mean = by_sound.mean(0)
        low, high = mean_interval(mean, np.arange(len(mean)))
        of_folds = [float(np.mean([folds[at] for folds in by_seed.values()])) for at in range(len(FOLDS))]
        seeds = {seed: float(part.mean()) for seed, part in zip(by_seed, by_sound, strict=True)}
        rows.append(
            {"method": method, "top1": float(mean.mean()), "interval": [low, high], "folds": of_folds, "seeds": seeds}
        )
    print(f"| method | top-1 of {len(mean)} sounds | " + " | ".join(f"fold {fold}" for fold in FOLDS) + " | by seed |")
    print("|---" * (3 + len(FOLDS)) + "|")
    for row in rows:
        cells = [f"{value:.3f}" for value in row["folds"]]
        seeds = ", ".join(f"{value:.3f}" for value in row["seeds"].values())
        low, high = row["interval"]
        print(f"| {row['method']} | {row['top1']:.3f} ({low:.3f}-{high:.3f}) | {' | '.join(cells)} | {seeds} |")
    write_json(Path(given.output) / "sounds.json", {"set": given.set, "methods": rows})


if __name__ == "__main__":
    main()
