"""A recipe: a TOML file that describes a run completely.

    name = "flickr8k"
    [data]              source of the groups                  lightcrl.data.DataSpec
    [encoders.image]    a table per modality                  lightcrl.encoders.EncoderSpec
    [features]          storage of the encoders' outputs      FeaturesSpec
    [method]            the trained method and its options    lightcrl.methods
    [tuning.image]      a trained encoder                     lightcrl.encoders.tower
    [training]          training settings                     TrainingSpec
    [heads.matching]    a head on the trained space           lightcrl.heads
    [evaluation]        measured tasks                        lightcrl.tasks.spec

A misspelt key is an error that names the nearest key. Relative paths start at the recipe's folder; those given by
`--set` start at the current folder.
"""

from __future__ import annotations

import operator
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lightcrl.data import DataSpec
from lightcrl.data.pairs import is_table
from lightcrl.encoders.base import EncoderSpec
from lightcrl.encoders.tower import TuningSpec
from lightcrl.errors import RecipeError, UnknownNameError, first_line
from lightcrl.features.spec import FeaturesSpec
from lightcrl.files.remote import is_uri
from lightcrl.heads.spec import HeadSpec, name_heads
from lightcrl.methods.spec import MethodSpec
from lightcrl.specs import parse
from lightcrl.tasks.spec import OWN_TABLES, TASKS, EvaluationSpec
from lightcrl.training.heads import head_training
from lightcrl.training.spec import TrainingSpec


class Recipe(BaseModel):
    """A complete run.

    Attributes:
        name: name of the run.
        output: folder of the run; by default `runs/<name>` in the current folder.
        data: source of the groups.
        encoders: encoders by modality.
        features: storage of the encoders' outputs.
        method: the trained method.
        tuning: settings of the trained encoders by modality; encoders without an entry are frozen.
        training: training settings.
        heads: heads that are trained on the space of the recipe's method, by name.
        evaluation: measured tasks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    output: str | None = None
    data: DataSpec
    encoders: dict[str, EncoderSpec] = Field(min_length=2)
    features: FeaturesSpec = Field(default_factory=FeaturesSpec)
    method: MethodSpec = Field(default_factory=MethodSpec)
    tuning: dict[str, TuningSpec] = {}
    training: TrainingSpec = Field(default_factory=TrainingSpec)
    heads: Annotated[dict[str, HeadSpec], BeforeValidator(name_heads), Field(exclude_if=operator.not_)] = {}
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec)

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        for name, spec in self.heads.items():
            head_training(spec, name)
        for modality in self.tuning:
            if modality not in self.encoders:
                raise UnknownNameError("modality of [tuning]", modality, self.encoders)
            if further := self.encoders[modality].views.further:
                raise RecipeError(
                    f"encoders.{modality}.views is {1 + further}, but the encoder is trained and reads all items anew. "
                    f"Remove views; tuning.{modality}.crop and flip change the pictures of every step."
                )
        if self.evaluation.text_similarity is not None and "text" not in self.kinds.values():
            kinds = ", ".join(f"{modality} ({kind})" for modality, kind in self.kinds.items())
            raise RecipeError(f"evaluation.text_similarity needs an encoder of kind 'text'; found {kinds}. Remove it.")
        return self

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of item by modality."""
        return {modality: spec.kind for modality, spec in self.encoders.items()}

    def methods(self) -> tuple[MethodSpec, ...]:
        """Return the methods to train: the recipe's own, then the baselines with their default options."""
        baselines = (parse(MethodSpec, {"name": name}, "method") for name in self.evaluation.baselines)
        return (self.method, *baselines)

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.output) if self.output else Path("runs") / self.name


def load_recipe(path: Path | str, overrides: Iterable[str] = (), output: Path | str | None = None) -> Recipe:
    """Read a recipe file, and apply `section.key=value` overrides.

    Raises:
        RecipeError: there is no such file, it is not TOML, a key is unknown, or a value is of the wrong kind.
    """
    return make_recipe(read_table(path, overrides, output))


def read_table(path: Path | str, overrides: Iterable[str] = (), output: Path | str | None = None) -> dict[str, Any]:
    """The table in a recipe's file, its paths absolute, overrides on top.

    Raises:
        RecipeError: no such file, not TOML, or an override that is none.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}. Expected a TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}.") from None
    table.setdefault("name", path.stem)
    anchor_paths(table, path.resolve().parent)
    override_table(table, overrides)
    if output is not None:
        table["output"] = str(Path(output).absolute())
    return table


def make_recipe(table: Mapping[str, Any]) -> Recipe:
    """Make a recipe from nested dictionaries, as read from TOML.

    Raises:
        RecipeError: see `load_recipe`.
    """
    recipe: Recipe = parse(Recipe, table)
    return recipe


def anchor_paths(table: dict[str, Any], folder: Path) -> None:
    """Make the relative paths of a recipe's table absolute, in place.

    Encoders and hub data sets may be ids instead; see `anchor_path`.
    """
    data, evaluation, encoders = (_section(table, key) for key in ("data", "evaluation", "encoders"))
    maybe_id = data.get("source") == "hub"
    places: list[tuple[dict[str, Any], tuple[str, ...], bool]] = [
        (table, ("output",), False),
        (_section(table, "features"), ("folder",), False),
        (data, ("path", "train", "dev", "test", "root"), maybe_id),
        *((table, keys, True) for table, keys in _task_tables(evaluation)),
        *((spec, ("model",), True) for spec in encoders.values() if isinstance(spec, dict)),
        *((spec, ("language_model",), True) for spec in _section(table, "heads").values() if isinstance(spec, dict)),
        # Of a recipe that extends a model.
        (_section(table, "stores"), tuple(_section(table, "stores")), False),
        *((spec, ("path", "ids"), False) for spec in _section(table, "vectors").values() if isinstance(spec, dict)),
        *((spec, ("path", "ids"), False) for spec in _section(data, "vectors").values() if isinstance(spec, dict)),
    ]
    for section, keys, may_be_id in places:
        for key in keys:
            if isinstance(value := section.get(key), str):
                section[key] = anchor_path(value, folder, may_be_id)


def _task_tables(evaluation: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """The tables of tasks below `[evaluation]`, each with its keys that hold paths."""
    for name in OWN_TABLES:
        if table := _section(evaluation, name):
            yield table, TASKS.load(name).Spec.PATHS
    for table in _section(evaluation, "tasks").values():
        kind = table.get("task") if isinstance(table, dict) else None
        if isinstance(kind, str) and (kind in TASKS or ":" in kind):
            yield table, TASKS.load(kind).Spec.PATHS


def anchor_path(value: str, folder: Path, may_be_id: bool) -> str:
    """Return a path as an absolute path.

    A URI is not changed, nor is a possible id, unless it exists as a path, begins with a dot or is a table.

    Raises:
        RecipeError: the path is below the home of an unknown user, or has a name that no file can have.
    """
    if is_uri(value) or (may_be_id and not value):
        return value
    try:
        path = Path(os.path.normpath(folder / Path(value).expanduser()))
        there = path.exists()
    except (RuntimeError, OSError) as error:
        raise RecipeError(
            f"{value[:60]!r}: {first_line(error)} Expected a path, or an id where one may stand."
        ) from None
    return str(path) if there or value.startswith(".") or is_table(value) or not may_be_id else value


def override_table(table: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return the table with `key=value` applied, in place; dots separate the keys of inner tables.

    Raises:
        RecipeError: an override is not of this form.
    """
    for override in overrides:
        _override(table, override)
    return table


def _section(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    section = table.get(key)
    return section if isinstance(section, dict) else {}


def _override(table: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set {override!r}: expected section.key=value, such as training.epochs=10.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    branch: dict[str, Any] = {}
    inner = branch
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
    inner[keys[-1]] = value
    anchor_paths(branch, Path.cwd())
    _merge(table, branch)


def _merge(table: dict[str, Any], branch: dict[str, Any]) -> None:
    for key, value in branch.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            _merge(table[key], value)
        else:
            table[key] = value
