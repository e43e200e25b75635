"""A fair comparison: every method on the same features, splits, seeds and budget, its options chosen on dev.

compare.json, compare.md     figures, differences, sentences; written after every training
report.html                  the page, written by `lightcrl compare` at the end (`report.comparison_page`)
cells/                       a folder per training: see `lightcrl.studies.cells`
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl.errors import ModalityError, RecipeError, ShapeError, TrainingError
from lightcrl.events import Tell
from lightcrl.files.local import make_folder, write_json, write_text
from lightcrl.metrics.curve import LEAST_SIZES, forecast, next_target
from lightcrl.metrics.statistics import Difference, difference
from lightcrl.pipeline import check_tasks, prepare
from lightcrl.processes import launched
from lightcrl.recipe import Recipe, load_recipe
from lightcrl.studies.cells import Cell, Ground, compared, comparison_tasks, mean_recall, measure_name
from lightcrl.studies.compare.arena import Arena, MethodArena
from lightcrl.studies.compare.outcome import MAIN, Comparison, Contestant, Growth, Try, judged, pairs, rivals
from lightcrl.studies.compare.tables import markdown
from lightcrl.studies.entries import Entry, check_entries, default_entries, parse_entry, subset_sizes
from lightcrl.tasks.base import Setting, Task
from lightcrl.tasks.spec import RETRIEVAL

# Errors of a single method that do not end the comparison.
FAILURES = (TrainingError, ModalityError, ShapeError)


@dataclass
class _State:
    """The current state of a comparison."""

    arena: Arena
    entries: Sequence[Entry]
    seeds: tuple[int, ...]
    tuned: bool
    chance: dict[str, float]
    target: float | None
    tried: dict[str, list[Try]] = field(default_factory=lambda: defaultdict(list))
    chosen: dict[str, tuple[int, Any]] = field(default_factory=dict)
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
    """Train every method with every seed on the same features and compare them. Finished work is reused.

    Args:
        recipe: a recipe, or the file of one: data, encoders, training and evaluation for all methods.
        methods: `"name"`, `"name[key=value,...]"` or `Entry`; by default the recipe's and all of this library.
        seeds: number of seeds, or the seeds.
        overrides: `section.key=value` on top of the file.
        output: folder of the comparison; by default the run's with `-compare`.
        tune: true if every method first tries its `grid` with the first seed and keeps the best options on dev.
        scaling: numbers of training groups for nested subsets; `"auto"` doubles from 125.
        target: mean R@1 for which `scaling` reports the needed groups; by default the next round one.
        tell: function that is called with events, as in `lightcrl.pipeline`.

    Raises:
        UnknownNameError: there is no such method.
        RecipeError: there are fewer than two methods, or options that a method does not have.
        TrainingError: a subset is larger than the data, no method can be trained, or there are several processes.
        LightCRLError: another setting of the recipe, the data or the machine is invalid.
    """
    check_processes()
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    folder = Path(output) if output is not None else recipe.folder.with_name(f"{recipe.folder.name}-compare")
    entries = default_entries(recipe) if methods is None else [_entry(method) for method in methods]
    check_entries(entries, recipe)
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    check_contest(numbers, target)
    check_tasks(recipe)
    features, encoders, _ = prepare(recipe, tell)
    sizes = [] if scaling is None else subset_sizes(scaling, entries, recipe, features)
    held = features.in_memory(recipe.training.memory_bytes)
    setting = Setting(encoders, recipe.features, tell, recipe.data, held, recipe.evaluation.split)
    ground = Ground(recipe, make_folder(folder), held, encoders, comparison_tasks(recipe, setting), tell)
    return contest(MethodArena(ground), entries, numbers, tune, sizes, target)


def check_processes() -> None:
    """Refuse several processes.

    Raises:
        TrainingError: the program was launched in several processes.
    """
    if launched() > 1:
        raise TrainingError("a comparison trains in one process. Launch it without accelerate or torchrun.")


def check_contest(seeds: Sequence[int], target: float | None) -> None:
    """Refuse seeds or a target that make no comparison.

    Raises:
        RecipeError: there are no seeds, or two equal ones; or the target is no share.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise RecipeError(f"seeds are {list(seeds)}; expected one or more, all different.")
    if target is not None and not 0 < target < 1:
        raise RecipeError(f"the target is {target}; expected a mean R@1 between 0 and 1, such as 0.5.")


def contest(
    arena: Arena,
    entries: Sequence[Entry],
    numbers: tuple[int, ...],
    tune: bool,
    sizes: Sequence[int],
    target: float | None,
) -> Comparison:
    """Train every entry with every seed, on all groups and on subsets, and compare them.

    Args:
        arena: common setting of the entries.
        entries: entries of the comparison.
        numbers: seeds.
        tune: true if every entry first tries its grid.
        sizes: numbers of groups, ascending, that of all groups last; empty for all groups alone.
        target: mean R@1 for which subsets give a forecast.

    Raises:
        TrainingError: no entry can be trained.
    """
    state = _State(arena, entries, numbers, tune, _chance(arena.tasks), target)
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
    """Choose every method's options: those with the best mean R@1 on dev, the earlier of equals."""
    for entry in state.entries:
        options_tried = state.arena.tries(entry, state.tuned)
        if len(options_tried) == 1:
            state.chosen[entry.label] = 0, options_tried[0][1]
            continue
        best = -1.0
        for number, (options, spec) in enumerate(options_tried):
            label = f"{entry.label} (try {number + 1} of {len(options_tried)})"
            try:
                cell = state.arena.train(label, spec, state.seeds[0], None)
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
    """Train a cell, unless its method has failed before."""
    label = entry.label
    if label in state.failed:
        return
    name = label if groups is None else f"{label} on {groups} groups"
    try:
        cell = state.arena.train(name, state.chosen[label][1], seed, groups)
    except FAILURES as error:
        state.failed[label] = str(error)
    else:
        (state.cells[label] if groups is None else state.smaller[label][groups]).append(cell)
        if not cell.fresh:
            return
    _write(state)


def _chance(tasks: Mapping[str, Task]) -> dict[str, float]:
    """Return the score of a random guess, by measure, as far as it is known."""
    chances = {}
    for label, task in tasks.items():
        for space, measure in compared(label, task):
            if (chance := task.chance(space, measure)) is not None:
                chances[measure_name(label, space, measure)] = chance
    return chances | mean_recall(chances, tasks[RETRIEVAL])


def _write(state: _State, finished: bool = False) -> Comparison:
    """Write the current results as JSON and Markdown, and return them."""
    arena = state.arena
    cells = {entry.label: state.cells[entry.label] for entry in state.entries if state.cells[entry.label]}
    estimates, drawn = judged(arena.tasks, cells)
    headlines = _headlines(arena.tasks)
    contestants = []
    for entry in state.entries:
        label = entry.label
        number, spec = state.chosen.get(label) or (0, arena.tries(entry, False)[0][1])
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
    contestants.sort(key=lambda contestant: -contestant.figures[MAIN].mean if contestant.cells else 1)
    done = Comparison(
        arena.folder,
        arena.recipe,
        state.seeds,
        state.tuned,
        tuple(contestants),
        pairs(drawn),
        state.chance,
        _queries(next(iter(cells.values()))[0]) if cells else {},
        headlines,
        {label: task.units for label, task in arena.tasks.items() if label != RETRIEVAL},
        _growth(state, contestants) if finished else (),
        finished,
    )
    write_json(arena.folder / "compare.json", done.to_json())
    write_text(arena.folder / "compare.md", markdown(done))
    return done


def _headlines(tasks: Mapping[str, Task]) -> tuple[str, ...]:
    """Return the headline measures of the tasks other than retrieval."""
    others = [(label, task) for label, task in tasks.items() if label != RETRIEVAL]
    return tuple(measure_name(label, *headline) for label, task in others for headline in task.headlines)


def _queries(cell: Cell) -> dict[str, int]:
    return {direction: len(rows) for direction, rows in cell.outcomes[RETRIEVAL].items.items()}


def _growth(state: _State, contestants: Sequence[Contestant]) -> tuple[Growth, ...]:
    """Return recall by training groups, for the methods that were trained on all subsets."""
    ranked = [
        contestant
        for contestant in contestants
        if contestant.cells and contestant.label in state.smaller and not contestant.failed
    ]
    if not ranked:
        return ()
    target = state.target if state.target is not None else next_target(ranked[0].figures[MAIN].mean)
    growths = []
    first = next((entry.label for entry in state.entries if entry.label in {each.label for each in ranked}), "")
    gaps = _gaps(state, first, [contestant.label for contestant in ranked])
    for contestant in ranked:
        by_size = [*state.smaller[contestant.label].values(), list(contestant.cells)]
        sizes = np.array([cells[0].groups for cells in by_size])
        recall = np.array([[cell.figures[MAIN] for cell in cells] for cells in by_size]).T
        said = forecast(sizes, recall, target) if len(sizes) >= LEAST_SIZES else None
        growths.append(Growth(contestant.label, sizes, recall, said, gaps.get(contestant.label, ())))
    return tuple(growths)


def _gaps(state: _State, first: str, labels: Sequence[str]) -> dict[str, tuple[Difference, ...]]:
    """Return mean R@1 of the entry `first` minus that of every other one, by number of groups."""
    gaps: dict[str, list[Difference]] = defaultdict(list)
    for size in [*state.smaller[first], None]:
        cells = {label: state.smaller[label][size] if size else state.cells[label] for label in labels}
        _, drawn = judged(state.arena.tasks, cells)
        for label in labels:
            if label != first:
                gaps[label].append(difference(drawn[first][MAIN], drawn[label][MAIN]))
    return {label: tuple(each) for label, each in gaps.items()}
