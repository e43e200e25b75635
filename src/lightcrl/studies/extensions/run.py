"""An extension study: `lightcrl compare RECIPE --extend MODEL`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lightcrl.embedder import load
from lightcrl.errors import RecipeError, TrainingError
from lightcrl.events import Tell
from lightcrl.features import Features
from lightcrl.features.embed import split_links
from lightcrl.files.local import make_folder
from lightcrl.growth.extend import growth_training, sides
from lightcrl.growth.groups import met_groups, open_groups
from lightcrl.growth.refusals import Growth, check_growth
from lightcrl.growth.spec import GrowthRecipe
from lightcrl.metrics.retrieval import Retrieval
from lightcrl.studies.compare.outcome import Comparison
from lightcrl.studies.compare.run import check_contest, check_processes, contest
from lightcrl.studies.entries import Entry, parse_entry
from lightcrl.studies.extensions.scene import RIVALS, Scene
from lightcrl.tasks.retrieval import RetrievalSpec, RetrievalTask
from lightcrl.tasks.spec import RETRIEVAL


def compare_extensions(
    model: Path | str,
    recipe: GrowthRecipe | Path | str,
    rivals: Sequence[str | Entry] | None = None,
    *,
    replace: str | None = None,
    seeds: int | Sequence[int] = 5,
    overrides: Iterable[str] = (),
    output: Path | str | None = None,
    tune: bool = True,
    scaling: Sequence[int] | str | None = None,
    target: float | None = None,
    tell: Tell = lambda event: None,
) -> Comparison:
    """Train every contestant with every seed on the groups of an extension, and compare them; finished work is reused.

    Figures are R@1 from and to the new modalities, on the split of the recipe.

    Args:
        model: the model to extend: a run's folder, a checkpoint's folder or a hub id.
        recipe: recipe of the extension, or its file.
        rivals: `"name"`, `"name[key=value,...]"` or `Entry`, of `RIVALS`; by default all. The others are compared with
            the first.
        replace: modality whose encoder the recipe replaces.
        seeds: number of seeds, or the seeds.
        overrides: `section.key=value` on top of the file.
        output: folder of the study; by default that of the extension with `-compare`.
        tune: true if every map first tries its `grid` with the first seed and keeps the best options on dev.
        scaling: numbers of training groups for nested subsets; `"auto"` doubles from 60.
        target: mean R@1 for which `scaling` reports the needed groups; by default the next round one.
        tell: function that is called with events.

    Raises:
        UnknownNameError: there is no such contestant.
        RecipeError: there are fewer than two contestants.
        GrowthError: the extension is impossible.
        TrainingError: a subset is smaller than a batch, or larger than the data.
        LightCRLError: another setting of the recipe, the data or the machine is invalid.
    """
    check_processes()
    if not isinstance(recipe, GrowthRecipe):
        recipe = GrowthRecipe.read(recipe, overrides)
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    check_contest(numbers, target)
    entries = [given if isinstance(given, Entry) else parse_entry(given) for given in rivals or RIVALS]
    labels = [entry.label for entry in entries]
    least = 2 if recipe.training.batch_size == "auto" else recipe.training.batch_size
    check_sizes(scaling, least)
    if len(set(labels)) < 2 or len(set(labels)) < len(labels):
        raise RecipeError(f"contestants are {', '.join(labels)}; expected two or more, every label once.")
    folder = make_folder(Path(output) if output else recipe.folder.with_name(f"{recipe.folder.name}-compare"))
    scene = make_scene(model, recipe, replace, folder, tell)
    for entry in entries:
        scene.tries(entry, False)
    have = len(met_groups(scene.seen.split("train"), scene.fresh))
    sizes = [] if scaling is None else study_sizes(scaling, have, least)
    return contest(scene, entries, numbers, tune, sizes, target)


def make_scene(model: Path | str, recipe: GrowthRecipe, replaced: str | None, folder: Path, tell: Tell) -> Scene:
    """Return the setting of an extension study, with all items encoded; errors as in `extend`."""
    embedder = load(model)
    base = embedder.checkpoint
    partners, others = sides(recipe, base.method, replaced)
    fresh = tuple(sorted(recipe.encoders))
    given = (*recipe.stores, *recipe.vectors, *recipe.weights)
    check_growth(Growth(base.method, fresh, replaced, (*partners, *others), given, tuned=tuple(recipe.tuning)))
    groups = open_groups(embedder, recipe, partners, others, folder / "anchors", tell)
    training = growth_training(recipe.training, base)
    old = [name for name in partners if name != replaced]
    seen = groups.only({*fresh, *old}).in_memory(training.memory_bytes)
    whole = None
    if set(old) <= groups.items.keys():
        stores = {name: seen.store(name) for name in fresh} | {name: groups.items[name] for name in old}
        whole = Features(stores).in_memory(training.memory_bytes)
    split = recipe.evaluation.split
    links = split_links(seen.split(split))
    if whole is not None:
        # Outcomes are paired query by query, so both must number items and groups alike.
        theirs = split_links(whole.split(split))
        whole = whole if all(np.array_equal(links[name], theirs[name]) for name in links) else None
    sizes = {name: len(np.unique(pairs[:, 0])) for name, pairs in links.items()}
    spec = RetrievalSpec(measures=("recall",))
    task = RetrievalTask(seen, split, Retrieval(links, of=fresh), sizes, spec)
    return Scene(base, recipe, folder, training, fresh, seen, whole, {RETRIEVAL: task}, tell)


def check_sizes(wanted: Sequence[int] | str | None, least: int) -> None:
    """Refuse subsets of fewer than `least` groups, before anything is encoded.

    Raises:
        TrainingError: a subset is smaller.
    """
    if not isinstance(wanted, str) and wanted is not None and min(wanted, default=least) < least:
        raise TrainingError(
            f"a subset of {min(wanted):,} groups was asked for, but a batch has {least:,}. Give larger ones, or "
            'training.batch_size = "auto".'
        )


def study_sizes(wanted: Sequence[int] | str, have: int, least: int = 2) -> list[int]:
    """Return numbers of training groups, ascending, with the number of all groups last.

    >>> study_sizes("auto", 500), study_sizes("auto", 500, 200), study_sizes([100], 500)
    ([60, 120, 240, 480, 500], [240, 480, 500], [100, 500])

    Raises:
        TrainingError: a subset is larger than the data.
    """
    if isinstance(wanted, str):
        return [size for size in (60 * 2**power for power in range(40)) if least <= size < have] + [have]
    sizes = sorted({*wanted, have})
    if sizes[-1] > have:
        raise TrainingError(
            f"subsets of {', '.join(map(str, sorted(wanted)))} groups, but the training split has {have:,} with new "
            "and old items. Give at most that."
        )
    return sizes
