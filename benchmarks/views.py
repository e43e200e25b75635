"""Views in training: numbers of views compared on the same groups and seeds, by numbers of groups.

    python benchmarks/views.py recipes/flickr8k.toml --views 1 3 --sizes 250 1000 6000 --seeds 5 --fold 0

prints a Markdown row for each size and number of views: mean R@1 and zero-shot top-1 with the difference from the first
number of views, paired by groups and seeds, and the seconds of a training. With `--fold N` the training split is cut
into folds of 1,000 groups, of which fold N takes the place of dev, so that nothing is chosen on dev. Finished trainings
are reused. A view costs as much encoding as its items.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl.features import Features
from lightcrl.features.views import ViewedStore
from lightcrl.files.local import make_folder, write_json
from lightcrl.metrics.statistics import difference
from lightcrl.pipeline import prepare
from lightcrl.recipe import load_recipe
from lightcrl.studies.cells import Ground, comparison_tasks, find_or_train
from lightcrl.studies.compare.outcome import MAIN, judged
from lightcrl.tasks.base import Setting

FOLD = 1000
MEASURES = (MAIN, "zero_shot/top1")


def with_views(features: Features, count: int) -> Features:
    """Return features in which every modality has at most `count` views."""
    stores = {
        name: ViewedStore(store.plain, store.views[: count - 1]) if count > 1 else store.plain
        for name, store in features.stores.items()
        if isinstance(store, ViewedStore)
    }
    return features.replace_stores(stores)


def folded(features: Features, fold: int) -> Features:
    """Return features whose dev split is a fold of the training split, and whose training split is the rest."""
    whole = features.split("train")
    order = np.random.default_rng(len(whole)).permutation(whole.usable)
    held = order[fold * FOLD : (fold + 1) * FOLD]
    rest = np.setdiff1d(order, held)
    return features.replace_split("train", whole.subset(rest)).replace_split("dev", whole.subset(held))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--modality", default="image", help="modality with views")
    parser.add_argument("--views", nargs="+", type=int, default=[1, 3], help="numbers of views; the first is the rule")
    parser.add_argument("--sizes", nargs="+", type=int, help="numbers of training groups; all by default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--fold", type=int, help="measure on a fold of the training split in place of dev")
    parser.add_argument("--output", default="runs/views", help="folder of the trainings and of views.json")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE")
    given = parser.parse_args()

    wanted = f"encoders.{given.modality}.views.count={max(given.views)}"
    recipe = load_recipe(given.recipe, [*given.overrides, wanted])
    features, encoders, _ = prepare(recipe)
    features = features if given.fold is None else folded(features, given.fold)
    held = features.in_memory(recipe.training.memory_bytes)
    setting = Setting(encoders, recipe.features, data=recipe.data, features=held, split="dev")
    tasks = comparison_tasks(recipe, setting)
    ground = Ground(recipe, make_folder(Path(given.output)), held, encoders, tasks, lambda event: None)
    rows = []
    for size in given.sizes or [None]:
        cells: dict[str, list[Any]] = {}
        for count in given.views:
            viewed = replace(ground, features=with_views(held, count))
            label = f"{count} views"
            cells[label] = [find_or_train(viewed, label, recipe.method, seed, size) for seed in range(given.seeds)]
            print(
                f"{size}, {label}: {' '.join(f'{cell.dev:.4f}' for cell in cells[label])}", file=sys.stderr, flush=True
            )
        rows += compared(tasks, cells)
    print(f"| groups | views | {' | '.join(name for name in MEASURES if name in rows[0])} | seconds |")
    print(f"|{'---|' * (3 + sum(name in rows[0] for name in MEASURES))}")
    for row in rows:
        shown = [text(row[name]) for name in MEASURES if name in row]
        print(f"| {row['groups']:,} | {row['views']} | {' | '.join(shown)} | {row['seconds']:.0f} |")
    write_json(
        make_folder(Path(given.output)) / "views.json", {"recipe": recipe.name, "fold": given.fold, "rows": rows}
    )


def compared(tasks: Mapping[str, Any], cells: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Return a row for every number of views, with differences from the first."""
    estimates, draws = judged(tasks, cells)
    first, rows = next(iter(cells)), []
    for label, figures in estimates.items():
        row: dict[str, Any] = {"groups": cells[label][0].groups, "views": label.partition(" ")[0]}
        row["seconds"] = float(np.median([cell.seconds for cell in cells[label]]))
        for name in MEASURES:
            if name in figures:
                row[name] = {"mean": figures[name].mean, "interval": figures[name].both}
                if label != first:
                    less = difference(draws[label][name], draws[first][name])
                    row[name]["difference"] = {"mean": less.mean, "interval": less.interval}
        rows.append(row)
    return rows


def text(figure: Mapping[str, Any]) -> str:
    """Format a figure in per cent, with its interval and its difference."""
    low, high = figure["interval"]
    shown = f"{100 * figure['mean']:.1f} ({100 * low:.1f}-{100 * high:.1f})"
    if "difference" not in figure:
        return shown
    low, high = figure["difference"]["interval"]
    return f"{shown}, {100 * figure['difference']['mean']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


if __name__ == "__main__":
    main()
