"""A fair comparison: every method on the same features, splits, seeds and budget, its options chosen on dev.

compare.json, compare.md     figures, differences, words; written after every training
report.html                  the same to look at, written by `lightcrl compare` at the end (`report.comparison_page`)
cells/                       one folder a training: see `lightcrl.studies.cells`
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lightcrl.errors import ModalityError, RecipeError, ShapeError, TrainingError
from lightcrl.events import Tell
from lightcrl.files.local import make_folder, write_json, write_text
from lightcrl.methods.spec import MethodSpec
from lightcrl.metrics.curve import LEAST_SIZES, forecast, next_target
from lightcrl.metrics.retrieval import KS
from lightcrl.pipeline import RETRIEVAL, check_tasks, prepare
from lightcrl.processes import launched
from lightcrl.recipe import Recipe, load_recipe
from lightcrl.studies.cells import Cell, Ground, comparison_tasks, find_or_train, mean_recall, measure_name
from lightcrl.studies.compare.outcome import MAIN, Comparison, Contestant, Growth, Try, judged, pairs, rivals
from lightcrl.studies.compare.tables import markdown
from lightcrl.studies.entries import (
    Entry,
    check_entries,
    default_entries,
    method_spec,
    parse_entry,
    subset_sizes,
    tries,
)
from lightcrl.tasks.base import Setting, Task

# What one method may not be able to do while the others can.
FAILURES = (TrainingError, ModalityError, ShapeError)


@dataclass
class _State:
    """What is known so far."""

    ground: Ground
    entries: Sequence[Entry]
    seeds: tuple[int, ...]
    tuned: bool
    chance: dict[str, float]
    target: float | None
    tried: dict[str, list[Try]] = field(default_factory=lambda: defaultdict(list))
    chosen: dict[str, tuple[int, MethodSpec]] = field(default_factory=dict)
    cells: dict[str, list[Cell]] = field(default_factory=lambda: defaultdict(list))
    smaller: dict[str, dict[int, list[Cell]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    failed: dict[str, str] = field(default_factory=dict)


def compare(
    recipe: Recipe | Path | str,
    methods: Sequence[str | Entry] | None = None,
    *,
    seeds: int | Sequence[int] = 5,
    overrides: Iterable[str] = (),
    output: Path | str | None = None,
    tune: bool = True,
    scaling: Sequence[int] | str | None = None,
    target: float | None = None,
    tell: Tell = lambda event: None,
) -> Comparison:
    """Train every method with every seed on the same features and say who is better. What is done is not done again.

    Args:
        recipe: a recipe, or the file of one: data, encoders, training and evaluation for all methods.
        methods: `"name"`, `"name[key=value,...]"` or `Entry`; by default the recipe's and all of this library.
        seeds: how many, or which.
        overrides: `section.key=value` on top of the file.
        output: folder of the comparison; by default the run's with `-compare`.
        tune: every method first tries its `grid` with the first seed and goes on with what is best on dev.
        scaling: train on nested subsets of so many training groups as well; `"auto"` doubles from 125.
        target: a mean R@1 that `scaling` says the needed groups for; by default the next round one.
        tell: called with what happens, as in `lightcrl.pipeline`.

    Raises:
        UnknownNameError: there is no such method.
        RecipeError: fewer than two methods, or options that a method does not have.
        TrainingError: a subset larger than the data, no method that can be trained, several processes.
        LightCRLError: whatever else the recipe, the data or the machine does not allow.
    """
    if launched() > 1:
        raise TrainingError("a comparison trains in one process. Launch it without accelerate or torchrun.")
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    folder = Path(output) if output is not None else recipe.folder.with_name(f"{recipe.folder.name}-compare")
    entries = default_entries(recipe) if methods is None else [_entry(one) for one in methods]
    check_entries(entries, recipe)
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not numbers or len(set(numbers)) < len(numbers):
        raise RecipeError(f"seeds are {seeds}; expected one or more, all different.")
    if target is not None and not 0 < target < 1:
        raise RecipeError(f"the target is {target}; expected a mean R@1 between 0 and 1, such as 0.5.")

    check_tasks(recipe)
    features, encoders, _ = prepare(recipe, tell)
    sizes = [] if scaling is None else subset_sizes(scaling, entries, recipe, features)
    held = features.in_memory(recipe.training.memory_bytes)
    setting = Setting(encoders, recipe.features, tell, recipe.data, held, recipe.evaluation.split)
    ground = Ground(recipe, make_folder(folder), held, encoders, comparison_tasks(recipe, setting), tell)
    state = _State(ground, entries, numbers, tune, _chance(ground.tasks), target)
    _choose(state)
    for seed in numbers:
        for entry in entries:
            _train(state, entry, seed)
    if not any(state.cells.values()):
        label, reason = next(iter(state.failed.items()))
        raise TrainingError(f"no method could be trained. {label}: {reason}")
    for size in sizes[:-1]:
        for seed in numbers:
            for entry in entries:
                _train(state, entry, seed, size)
    return _write(state, finished=True)


def _entry(given: str | Entry) -> Entry:
    return parse_entry(given) if isinstance(given, str) else given


def _choose(state: _State) -> None:
    """Every method's options: those with the best mean R@1 on dev, the earlier of equals."""
    for entry in state.entries:
        known = tries(entry, state.ground.recipe, state.tuned)
        if len(known) == 1:
            state.chosen[entry.label] = 0, known[0][1]
            continue
        best = -1.0
        for number, (options, spec) in enumerate(known):
            label = f"{entry.label} (try {number + 1} of {len(known)})"
            try:
                cell = find_or_train(state.ground, label, spec, state.seeds[0])
            except FAILURES as error:
                state.tried[entry.label].append(Try(options, None, str(error)))
                continue
            state.tried[entry.label].append(Try(options, cell.dev, folder=cell.folder.name))
            if cell.dev > best:
                best, state.chosen[entry.label] = cell.dev, (number, spec)
        if entry.label not in state.chosen:
            state.failed[entry.label] = state.tried[entry.label][0].failed
        _write(state)


def _train(state: _State, entry: Entry, seed: int, groups: int | None = None) -> None:
    """Train one cell, unless its method has failed before."""
    label = entry.label
    if label in state.failed:
        return
    name = label if groups is None else f"{label} on {groups} groups"
    try:
        cell = find_or_train(state.ground, name, state.chosen[label][1], seed, groups)
    except FAILURES as error:
        state.failed[label] = str(error)
    else:
        (state.cells[label] if groups is None else state.smaller[label][groups]).append(cell)
        if not cell.fresh:
            return
    _write(state)


def _chance(tasks: Mapping[str, Task]) -> dict[str, float]:
    """Return, by measure, what a blind guess scores, as far as that is known."""
    chances = {}
    for label, task in tasks.items():
        # Of retrieval all recalls are shown, of other tasks their headlines.
        measures = [f"recall@{k}" for k in KS] if label == RETRIEVAL else []
        shown = [(space, each) for space, headline in task.headlines for each in measures or (headline,)]
        for space, measure in shown:
            if (chance := task.chance(space, measure)) is not None:
                chances[measure_name(label, space, measure)] = chance
    return chances | mean_recall(chances, tasks[RETRIEVAL])


def _write(state: _State, finished: bool = False) -> Comparison:
    """What is known by now, written as JSON and Markdown."""
    ground = state.ground
    cells = {entry.label: state.cells[entry.label] for entry in state.entries if state.cells[entry.label]}
    estimates, drawn = judged(ground.tasks, cells)
    headlines = _headlines(ground.tasks)
    contestants = []
    for entry in state.entries:
        label = entry.label
        number, spec = state.chosen.get(label, (0, method_spec(entry, ground.recipe)))
        contestants.append(
            Contestant(
                label,
                entry.method,
                spec.options,
                tuple(state.tried[label]),
                number,
                tuple(state.cells[label]),
                estimates.get(label, {}),
                rivals(drawn, label, (MAIN, *headlines)) if label in drawn else {},
                state.failed.get(label, ""),
            )
        )
    contestants.sort(key=lambda one: -one.figures[MAIN].mean if one.cells else 1)
    done = Comparison(
        ground.folder,
        ground.recipe,
        state.seeds,
        state.tuned,
        tuple(contestants),
        pairs(drawn),
        state.chance,
        _queries(next(iter(cells.values()))[0]) if cells else {},
        headlines,
        _growth(state, contestants) if finished else (),
        finished,
    )
    write_json(ground.folder / "compare.json", done.to_json())
    write_text(ground.folder / "compare.md", markdown(done))
    return done


def _headlines(tasks: Mapping[str, Task]) -> tuple[str, ...]:
    """Return the measures that stand for the tasks beside retrieval."""
    others = [(label, task) for label, task in tasks.items() if label != RETRIEVAL]
    return tuple(measure_name(label, *headline) for label, task in others for headline in task.headlines)


def _queries(cell: Cell) -> dict[str, int]:
    return {direction: len(rows) for direction, rows in cell.outcomes[RETRIEVAL].items.items()}


def _growth(state: _State, contestants: Sequence[Contestant]) -> tuple[Growth, ...]:
    """Recall by training groups, of the methods that were trained on all subsets."""
    ranked = [one for one in contestants if one.cells and one.label in state.smaller and not one.failed]
    if not ranked:
        return ()
    target = state.target if state.target is not None else next_target(ranked[0].figures[MAIN].mean)
    found = []
    for one in ranked:
        by_size = [*state.smaller[one.label].values(), list(one.cells)]
        sizes = np.array([cells[0].groups for cells in by_size])
        recall = np.array([[cell.figures[MAIN] for cell in cells] for cells in by_size]).T
        said = forecast(sizes, recall, target) if len(sizes) >= LEAST_SIZES else None
        found.append(Growth(one.label, sizes, recall, said))
    return tuple(found)
