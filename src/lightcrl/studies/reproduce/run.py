"""The reproduction of the paper's tables: train every model of a family, measure every task, repeat nothing.

reproduction.json, reproduction.md    figures, published ones beside them, claims; written after every recipe and seed
<recipe>/cells/<method>-seed<N>-...   one folder per training, as in a comparison: see `lightcrl.studies.cells`
    tasks/<task>-<digest>.npz         outcome of the model, item by item
<recipe>/encoders/<task>-<digest>.npz outcome of the frozen-encoder baselines
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lightcrl.embedder import load
from lightcrl.encoders.base import fingerprint
from lightcrl.errors import TrainingError
from lightcrl.events import Tell
from lightcrl.files.local import make_folder, write_json, write_text
from lightcrl.files.locks import only_writer
from lightcrl.methods import METHODS
from lightcrl.pipeline import prepare
from lightcrl.processes import launched
from lightcrl.recipe import Recipe, load_recipe
from lightcrl.studies.cells import Cell, Ground, find_or_train, read_outcomes, write_outcomes
from lightcrl.studies.compare.run import FAILURES
from lightcrl.studies.entries import Entry, method_spec
from lightcrl.studies.judge import Judged, judge
from lightcrl.studies.reproduce.claims import read_claims
from lightcrl.studies.reproduce.family import Choice, Family, choose, load_family
from lightcrl.studies.reproduce.outcome import Done, Reproduction, Trained
from lightcrl.studies.reproduce.published import RAW, published
from lightcrl.studies.reproduce.tables import markdown
from lightcrl.tasks.base import Outcome, Setting, Task, prepare_task
from lightcrl.tasks.retrieval import RetrievalSpec
from lightcrl.tasks.spec import RETRIEVAL
from lightcrl.training.plan import make_plan

FORMAT = 2


@dataclass
class _Stage:
    """A recipe: data, tasks, and the cells, outcomes and figures of its models so far."""

    name: str
    recipe: Recipe
    setting: Setting
    groups: int | None
    tasks: dict[str, Task]
    cells: dict[str, list[Cell]] = field(default_factory=lambda: defaultdict(list))
    outcomes: dict[str, dict[str, list[Outcome]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    failed: dict[str, str] = field(default_factory=dict)
    judged: dict[str, tuple[list[int], Judged]] = field(default_factory=dict)


def reproduce(
    family: Family | Path | str,
    *,
    models: Sequence[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    tasks: Sequence[str] | None = None,
    groups: int | None = None,
    overrides: Iterable[str] = (),
    output: Path | str | None = None,
    tell: Tell = lambda event: None,
) -> Reproduction:
    """Train the models of a family, measure its tasks, and set the figures beside the published ones.

    Args:
        family: a family, its folder, or its family.toml.
        models: labels of the models to train; all but the optional ones by default, `["all"]` for these too.
        seeds: seeds, or their number; the family's by default.
        tasks: names of the tasks to measure; all by default. Recipes without a task are left out.
        groups: number of training groups of every recipe, in place of the family's.
        overrides: changes `section.key=value` to every recipe.
        output: folder of the reproduction; `runs/<name>` below the current folder by default.
        tell: receiver of the events, as in `lightcrl.pipeline`.

    Raises:
        UnknownNameError: a model, task or method does not exist.
        RecipeError: the family or a recipe is invalid.
        LockedError: another process is writing the folder.
        TrainingError: the data has fewer groups than requested, several processes were launched, or every model of a
            recipe failed.
        LightCRLError: the recipes, the data or the machine do not allow the reproduction for another reason.
    """
    if launched() > 1:
        raise TrainingError("a reproduction trains in one process. Launch it without accelerate or torchrun.")
    if not isinstance(family, Family):
        family = load_family(family)
    choice = choose(family, models, seeds, tasks, groups, overrides)
    folder = Path(output) if output is not None else Path("runs") / family.name
    with only_writer(folder, tell) as hold:
        return _reproduce(family, choice, folder, hold.guard(tell))


def _reproduce(family: Family, choice: Choice, folder: Path, tell: Tell) -> Reproduction:
    # Errors in recipes, methods and data show before the first training.
    recipes = {name: load_recipe(family.file(name), choice.overrides) for name in choice.recipes}
    for recipe in recipes.values():
        for entry in choice.models:
            method_spec(entry, recipe)
    stages = [_prepare(choice, name, recipe, tell) for name, recipe in recipes.items()]
    done = _write(choice, folder, stages, finished=False)
    for stage in stages:
        place = make_folder(folder / stage.name)
        setting = stage.setting
        assert setting.features is not None
        features = setting.features.in_memory(stage.recipe.training.memory_bytes)
        held = replace(setting, features=features)
        own = {RETRIEVAL: prepare_task(RETRIEVAL, RetrievalSpec(measures=("recall",)), held)}
        ground = Ground(stage.recipe, place, features, setting.encoders, own, tell)
        for name, task in stage.tasks.items():
            stage.outcomes[name][RAW] = [_kept(place / "encoders", name, task, task.baseline)]
        for seed in choice.seeds:
            for entry in choice.models:
                _train(stage, ground, entry, seed)
            done = _write(choice, folder, stages, finished=stage is stages[-1] and seed == choice.seeds[-1])
        if not any(stage.cells.values()):
            label, reason = next(iter(stage.failed.items()))
            raise TrainingError(f"{stage.name}: no model could be trained. {label}: {reason}")
        stage.setting = replace(setting, tell=lambda event: None)
    return done


def _prepare(choice: Choice, name: str, recipe: Recipe, tell: Tell) -> _Stage:
    """Read and encode the data of a recipe and of its tasks."""
    features, encoders, _ = prepare(recipe, tell, views=False)
    groups, have = choice.size(name), len(features.split("train").usable)
    if groups is not None and groups > have:
        raise TrainingError(
            f"{name}: {groups:,} training groups were asked for, but there are {have:,} with items of two modalities. "
            "Give at most that."
        )
    split = features.split("train")
    part = split if groups is None else split.subset(split.usable[:groups])
    for entry in choice.models:
        make_plan(recipe.training.suited(METHODS.load(entry.method)), part)
    setting = Setting(encoders, recipe.features, tell, recipe.data, features, recipe.evaluation.split)
    wanted = {label: spec for label, spec in choice.tasks.items() if spec.recipe == name}
    return _Stage(
        name,
        recipe,
        setting,
        groups,
        {label: prepare_task(spec.task, spec.settings, setting) for label, spec in wanted.items()},
    )


def _train(stage: _Stage, ground: Ground, entry: Entry, seed: int) -> None:
    """Train a model with a seed and measure its tasks, unless the model has failed before."""
    label = entry.label
    if label in stage.failed:
        return
    try:
        cell = find_or_train(ground, label, method_spec(entry, ground.recipe), seed, stage.groups)
    except FAILURES as error:
        # Figures over fewer seeds than those of the other models would not be comparable.
        stage.failed[label] = str(error)
        stage.cells.pop(label, None)
        for outcomes in stage.outcomes.values():
            outcomes.pop(label, None)
        return
    stage.cells[label].append(cell)
    for name, task in stage.tasks.items():

        def measure(task: Task = task) -> Outcome:
            return task.measure(load(cell.folder).checkpoint, cell.folder / "tasks")

        stage.outcomes[name][label].append(_kept(cell.folder / "tasks", name, task, measure))


def _kept(folder: Path, name: str, task: Task, measure: Callable[[], Outcome]) -> Outcome:
    """Return an outcome from its file; measure and write it if the file is missing."""
    path = folder / f"{name}-{fingerprint([FORMAT, task.name, task.identity])[:10]}.npz"
    try:
        return read_outcomes(path).get(name, Outcome({}))  # a task without a baseline has an empty outcome
    except (OSError, ValueError):
        outcome = measure()
    make_folder(folder)
    write_outcomes(path, {name: outcome})
    return outcome


def _judged(stage: _Stage, name: str, labels: Sequence[str]) -> Judged:
    """Return a task's figures; computed again only after a new outcome, since a bootstrap takes seconds."""
    measured = stage.outcomes[name]
    outcomes = {label: measured[label] for label in labels if measured.get(label) and measured[label][0].items}
    counts = [len(measured[label]) for label in outcomes]
    if name not in stage.judged or stage.judged[name][0] != counts:
        stage.judged[name] = counts, judge(stage.tasks[name], outcomes) if outcomes else {}
    return stage.judged[name][1]


def _write(choice: Choice, folder: Path, stages: Sequence[_Stage], finished: bool) -> Reproduction:
    """Write the results so far as JSON and Markdown, and return them."""
    facts = published()
    names = {entry.label: facts.name(entry) for entry in choice.models}
    done = []
    for name, spec in choice.tasks.items():
        stage = next(stage for stage in stages if stage.name == spec.recipe)
        task, judged = stage.tasks[name], _judged(stage, name, (RAW, *names))
        if not judged:
            continue
        done.append(
            Done(
                name,
                spec,
                f"{task.units:,} {task.drawn}",
                judged,
                tuple(read_claims(name, task, spec.task, judged, names, facts)),
            )
        )
    trained = tuple(Trained(stage.name, dict(stage.cells), dict(stage.failed)) for stage in stages)
    reproduction = Reproduction(folder, choice, facts, names, trained, tuple(done), finished)
    write_json(folder / "reproduction.json", reproduction.to_json())
    write_text(folder / "reproduction.md", markdown(reproduction))
    return reproduction
