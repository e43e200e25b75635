"""Text pairs: the methods of recipes/text_text.toml and the frozen-encoder baselines, on labelled and scored pairs.

    python benchmarks/pairs.py --methods dfe linear convirt --seeds 0 1

prints a Markdown table (a line per space, method and seed, 95 % intervals over pairs) and writes it as JSON. Finished
encodings and trainings are reused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightcrl
from lightcrl.files.local import write_json
from lightcrl.metrics import Result
from lightcrl.tasks.base import Setting, prepare_task
from lightcrl.tasks.text_similarity import TextSimilaritySpec, TextSimilarityTask

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared/data/text_pairs"


def cell(result: Result, name: str) -> str:
    low, high = result.interval[name]
    return f"{result.metrics[name]:.3f} ({low:.3f}-{high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=str(ROOT / "recipes/text_text.toml"))
    parser.add_argument("--methods", nargs="+", default=["dfe", "linear", "convirt"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--labelled", default=str(DATA / "mrpc_test.jsonl"))
    parser.add_argument("--calibration", default=str(DATA / "mrpc_train.jsonl"))
    parser.add_argument("--scored", default=str(DATA / "stsb_test.jsonl"))
    parser.add_argument("--output", default="runs/pairs", help="folder of the run and of pairs.json")
    parser.add_argument("--set", nargs="*", default=[], help="section.key=value for the recipe")
    given = parser.parse_args()

    # Unreadable pairs are reported before hours of training.
    specs = {
        "labelled": TextSimilaritySpec(data=given.labelled, calibration=given.calibration),
        "scored": TextSimilaritySpec(data=given.scored),
    }
    for spec in specs.values():
        TextSimilarityTask.check(spec, {"text": "text"})
    first, *others = given.methods
    overrides = [f"method.name={first}", f"evaluation.baselines={others}", f"evaluation.seeds={given.seeds}"]
    recipe = lightcrl.load_recipe(given.recipe, [*overrides, *given.set], given.output)
    done = lightcrl.run(recipe)
    trained = [lightcrl.load(model.folder) for model in done.models]
    encoders = {name: trained[0].encoder(name) for name in recipe.encoders}
    setting = Setting(encoders, recipe.features)
    prepared = {name: prepare_task("text_similarity", spec, setting) for name, spec in specs.items()}
    results = [{name: task.evaluate(embedder.checkpoint) for name, task in prepared.items()} for embedder in trained]

    print("| space | method | seed | accuracy | similar F1 | dissimilar F1 | ROC AUC | Spearman | Pearson |")
    print("|---|---|---|---|---|---|---|---|---|")
    spaces = dict.fromkeys(name.partition("/")[0] for name in results[0]["scored"].metrics)
    for space in spaces:
        for model, figures_of in zip(done.models, results, strict=True):
            shown = ("", "") if space.startswith("raw") else (model.method, str(model.seed))
            figures = [f"{space}/{name}" for name in ("accuracy", "similar/f1", "dissimilar/f1", "roc_auc")]
            cells = [cell(figures_of["labelled"], name) for name in figures]
            cells += [cell(figures_of["scored"], f"{space}/{name}") for name in ("spearman", "pearson")]
            print(f"| {space} | {' | '.join((*shown, *cells))} |")
            if space.startswith("raw"):  # the same whatever was trained
                break
    write_json(
        Path(given.output) / "pairs.json",
        {
            "data": {"labelled": given.labelled, "calibration": given.calibration, "scored": given.scored},
            "set": given.set,
            "models": [
                {
                    "method": model.method,
                    "seed": model.seed,
                    **{name: result.to_json() for name, result in figures_of.items()},
                }
                for model, figures_of in zip(done.models, results, strict=True)
            ],
        },
    )


if __name__ == "__main__":
    main()
