"""A family: a folder of recipes that belong together, and a family.toml that names models, recipes and tasks.

    name = "paper_small"
    seeds = [0, 1, 2]
    [models]                    methods to train, by label: `name[key=value,...]` as in a comparison
    [optional]                  further methods, trained only on request
    [recipes.image_text]        a recipe of the family: its file and its number of training groups
    [tasks.cifar10]             a task: its kind, the recipe of its models, its data, the published table beside it

A misspelt key is an error that names the nearest one. Relative paths count from the family's folder.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

from lightcrl.errors import RecipeError, UnknownNameError
from lightcrl.recipe import anchor_path
from lightcrl.specs import parse
from lightcrl.studies.entries import Entry, parse_entry
from lightcrl.studies.reproduce.published import published
from lightcrl.tasks.spec import TASKS, TaskSpec, make_task_spec

FILE = "family.toml"
ALL = "all"
"""The label that stands for every model, the optional ones included."""


class RecipeUse(BaseModel):
    """A `[recipes.<name>]` table.

    Attributes:
        file: file of the recipe; `<name>.toml` by default.
        groups: number of training groups, drawn by the seed; all by default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str | None = None
    groups: int | None = Field(default=None, gt=1)


class FamilyTask(BaseModel):
    """A `[tasks.<name>]` table: a task, the recipe whose models it measures, and the task's own settings.

    Attributes:
        task: a member of `TASKS`, or `"package.module:Class"`.
        recipe: name of the recipe whose models are measured.
        published: name of the published table beside it; see published.json.
        title: heading of the table; the task's name by default.
        settings: all other keys: the settings of the task.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    recipe: str
    published: str | None = None
    title: str = ""
    settings: SerializeAsAny[TaskSpec]


class Family(BaseModel):
    """The content of a family.toml.

    Attributes:
        name: name of the family.
        about: note for readers of the tables.
        seeds: seeds of every model's trainings.
        models: methods by label.
        optional: methods by label, trained only on request.
        recipes: recipes by name.
        tasks: tasks by name.
        folder: folder of the family.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    about: str = ""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    models: dict[str, str] = Field(min_length=1)
    optional: dict[str, str] = {}
    recipes: dict[str, RecipeUse] = Field(min_length=1)
    tasks: dict[str, FamilyTask] = Field(min_length=1)
    folder: Path

    def file(self, recipe: str) -> Path:
        """Return the file of a recipe."""
        return self.folder / (self.recipes[recipe].file or f"{recipe}.toml")


@dataclass(frozen=True)
class Choice:
    """A selection from a family.

    Attributes:
        family: the whole family.
        models: models to train, with their labels in the family.
        seeds: seeds of the trainings.
        tasks: tasks to measure, by name.
        groups: number of training groups of every recipe, in place of the family's; None keeps the family's.
        overrides: changes `section.key=value` to every recipe.
    """

    family: Family
    models: tuple[Entry, ...]
    seeds: tuple[int, ...]
    tasks: dict[str, FamilyTask]
    groups: int | None
    overrides: tuple[str, ...]

    @property
    def recipes(self) -> tuple[str, ...]:
        """The recipes whose models have a task, in the family's order."""
        wanted = {spec.recipe for spec in self.tasks.values()}
        return tuple(name for name in self.family.recipes if name in wanted)

    def size(self, recipe: str) -> int | None:
        """Return the number of training groups of a recipe; None for all."""
        return self.family.recipes[recipe].groups if self.groups is None else self.groups


def load_family(place: Path | str) -> Family:
    """Read a family from its folder or from its family.toml.

    Raises:
        RecipeError: the file is missing, is not TOML, or has an unknown key or a value of the wrong kind.
        UnknownNameError: a task, recipe or published table does not exist.
    """
    path = Path(place)
    path = path if path.suffix == ".toml" else path / FILE
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(
            f"cannot read {path}: {error.strerror}. Expected a folder of recipes with a {FILE}, such as "
            "recipes/paper_small."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}.") from None
    folder = path.resolve().parent
    given = table.get("tasks")
    if isinstance(given, dict):
        table["tasks"] = {name: _task(name, settings, folder) for name, settings in given.items()}
    family: Family = parse(Family, {"name": folder.name, **table, "folder": folder})
    _check(family)
    return family


def choose(
    family: Family,
    models: Sequence[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    tasks: Sequence[str] | None = None,
    groups: int | None = None,
    overrides: Iterable[str] = (),
) -> Choice:
    """Select models, seeds and tasks of a family; all but the optional models by default.

    Raises:
        UnknownNameError: the family lacks a model or a task.
        RecipeError: the seeds are none, or one of them stands twice.
    """
    methods = {**family.models, **family.optional}
    wanted = list(methods) if models is not None and list(models) == [ALL] else models
    labels = list(family.models) if wanted is None else wanted
    for label in labels:
        if label not in methods:
            raise UnknownNameError("model of the family", label, (*methods, ALL))
    for name in tasks or ():
        if name not in family.tasks:
            raise UnknownNameError("task of the family", name, family.tasks)
    numbers = family.seeds if seeds is None else tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not numbers or len(set(numbers)) < len(numbers):
        raise RecipeError(f"seeds are {seeds or numbers}; expected one or more, all different.")
    return Choice(
        family,
        tuple(_entry(label, methods[label]) for label in dict.fromkeys(labels)),
        numbers,
        {name: spec for name, spec in family.tasks.items() if tasks is None or name in tasks},
        groups,
        tuple(overrides),
    )


def _entry(label: str, text: str) -> Entry:
    entry = parse_entry(text)
    return Entry(label, entry.method, entry.options)


def _task(name: str, table: Any, folder: Path) -> FamilyTask:
    """Return a task whose settings are checked against those of its kind."""
    where = f"tasks.{name}"
    kind = table.get("task") if isinstance(table, dict) else None
    if not isinstance(kind, str):
        raise RecipeError(f"{where}: found {table!r}; expected a table with a task, one of {', '.join(TASKS)}.")
    paths = TASKS.load(kind).Spec.PATHS
    own = {key: value for key, value in table.items() if key in FamilyTask.model_fields and key != "settings"}
    settings = {
        key: anchor_path(value, folder, may_be_id=True) if key in paths and isinstance(value, str) else value
        for key, value in table.items()
        if key not in own
    }
    task: FamilyTask = parse(FamilyTask, {**own, "settings": make_task_spec(kind, settings, where)}, where)
    return task


def _check(family: Family) -> None:
    for label in family.optional:
        if label in family.models or label == ALL:
            raise RecipeError(
                f"optional.{label}: {label!r} is taken; expected every label once, and none called {ALL}."
            )
    for name, spec in family.tasks.items():
        if spec.recipe not in family.recipes:
            raise RecipeError(f"tasks.{name}: {UnknownNameError('recipe', spec.recipe, family.recipes)}")
        if spec.published is None:
            continue
        table = published().table(spec.published)
        if table.task != spec.task:
            raise RecipeError(
                f"tasks.{name}: the published table {spec.published!r} is of {table.task}, the task is {spec.task}."
            )
