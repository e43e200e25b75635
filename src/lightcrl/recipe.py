"""A recipe: one TOML file that says what is aligned with what, how, and how it is measured.

    name = "flickr8k"
    [data]              where the groups come from            lightcrl.data.DataSpec
    [encoders.image]    one table per modality                lightcrl.encoders.EncoderSpec
    [features]          where their outputs are kept          FeaturesSpec
    [method]            what is trained: name and its options lightcrl.methods
    [tuning.image]      encoders that are trained too         lightcrl.encoders.tower
    [training]          how                                   TrainingSpec
    [evaluation]        what is measured beside it            lightcrl.tasks.spec

A misspelt key is an error that names the nearest one. Relative paths count from the recipe's folder; those given by
`--set` count from where you are.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lightcrl.data import DataSpec
from lightcrl.data.pairs import is_table
from lightcrl.encoders.base import EncoderSpec
from lightcrl.encoders.tower import TuningSpec
from lightcrl.errors import LightCRLError, RecipeError, UnknownNameError
from lightcrl.features.engines import ENGINES, Crew
from lightcrl.files.local import cache_folder
from lightcrl.files.remote import is_uri
from lightcrl.losses import LOSSES
from lightcrl.methods import METHODS, Method, MethodOptions
from lightcrl.tasks.spec import EvaluationSpec


def default_features_folder() -> str:
    """`$LIGHTCRL_CACHE/features`, or `~/.cache/lightcrl/features`: stores are shared by all recipes."""
    return str(cache_folder() / "features")


class FeaturesSpec(BaseModel):
    """The `[features]` table.

    Attributes:
        folder: of all feature stores, a path or a URI of an object store (`s3://bucket/features`).
        dtype: of stored values.
        workers: threads that decode pictures and sounds, in every process that encodes.
        engine: a member of `ENGINES`: `"local"` encodes in this process, `"ray"` on the machines of a Ray cluster; or
            `"package.module:function"` for the user's own.
        actors: processes that encode at once, for engine `"ray"`; `"auto"` takes as many as there is room for.
        actor_cpus: cores of each, and threads of its arithmetic.
        actor_gpus: GPUs of each; below 1, several share one. With 0 they encode on the CPU.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str = Field(default_factory=default_features_folder)
    dtype: Literal["float16", "float32"] = "float16"
    workers: int = Field(default=4, gt=0)
    engine: str = "local"
    actors: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    actor_cpus: int = Field(default=1, gt=0)
    actor_gpus: float = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> FeaturesSpec:
        if ":" not in self.engine:
            ENGINES[self.engine]
        if self.engine == "local" and self.crew != Crew():
            raise ValueError("actors, actor_cpus and actor_gpus are for engine = 'ray'")
        return self

    @property
    def crew(self) -> Crew:
        """Who encodes, where the engine is not the local one."""
        return Crew(self.actors, self.actor_cpus, self.actor_gpus)


class MethodSpec(BaseModel):
    """The `[method]` table: a method's name; every other key is an option of that method.

    Attributes:
        name: a member of `METHODS`, or `"package.module:Class"`.
        options: the method's own options, checked against its `Options`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    name: str = "dfe"
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, table: Any) -> Any:
        """Take the keys beside `name` as options, and fill in the method's defaults."""
        if not isinstance(table, dict):
            return table
        given = {
            **{key: value for key, value in table.items() if key not in ("name", "options")},
            **table.get("options", {}),
        }
        name = table.get("name", "dfe")
        return {"name": name, "options": parse(METHODS.load(name).Options, given, "method").model_dump(mode="json")}

    def parsed(self) -> MethodOptions:
        """The options as the method takes them."""
        return METHODS.load(self.name).Options.model_validate(self.options)


class TrainingSpec(BaseModel):
    """The `[training]` table. `"auto"` takes what suits the method (`suited`) and the amount of data (`make_plan`).

    Attributes:
        epochs: an epoch draws every group as often as it has items of its richest modality, so that each caption is
            seen about once.
        batch_size: groups per step.
        items_per_group: items of each modality that a group brings into a batch, all positives of each other.
        loss: a member of `LOSSES`.
        label_smoothing: of InfoNCE's targets; other losses have none.
        learning_rate: peak rate of AdamW.
        weight_decay: of weight matrices; biases, norms and the logit scale have none.
        warmup: share of all steps in which the rate rises.
        schedule: `"cosine"`, or the paper's `"plateau"` (times `plateau_factor` after `plateau_patience` epochs
            without a better dev loss).
        plateau_patience: epochs.
        plateau_factor: of the learning rate.
        clip: greatest norm of the gradient; 0 leaves it as it is.
        patience: stop after this many evaluations without a better dev mean R@1; 0 never stops early.
        evaluate_every: epochs between two evaluations on dev.
        precision: of the forward pass; `"auto"` takes bfloat16 where the GPU, or the CPU for batches of 256 and more,
            multiplies in it.
        chunk: items that go through a tower at once; the gradient is that of the whole batch. `"auto"` takes the
            encoder's batch size.
        memory: GiB of features that a process may hold. Stores that have more together are not held, but read in
            windows of groups, each shuffled by itself (`sampling.Window`).
        device: `"auto"` takes the GPU when there is one.
        tensorboard: write TensorBoard logs beside log.jsonl (extra `tensorboard`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int | Literal["auto"] = "auto"
    batch_size: int | Literal["auto"] = "auto"
    items_per_group: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    loss: str = "auto"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = "auto"
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    weight_decay: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    warmup: float = Field(default=0.05, ge=0, lt=1)
    schedule: Literal["auto", "cosine", "plateau"] = "auto"
    plateau_patience: int = Field(default=5, ge=0)
    plateau_factor: float = Field(default=0.8, gt=0, lt=1)
    clip: float = Field(default=1.0, ge=0)
    patience: int = Field(default=0, ge=0)
    evaluate_every: int = Field(default=1, gt=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    chunk: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    memory: float = Field(default=4.0, gt=0)
    device: str = "auto"
    tensorboard: bool = True

    @model_validator(mode="after")
    def _check(self) -> TrainingSpec:
        if self.loss != "auto":
            LOSSES[self.loss]
        if self.label_smoothing not in ("auto", 0) and self.loss not in ("auto", "info_nce"):
            raise ValueError(f"label_smoothing is {self.label_smoothing}, but loss {self.loss!r} has none; expected 0")
        for name, least in (("epochs", 1), ("batch_size", 2)):
            value = getattr(self, name)
            if value != "auto" and value < least:
                raise ValueError(f"{name} is {value}, expected at least {least}")
        return self

    def identity(self) -> dict[str, Any]:
        """What decides the outcome, as JSON values: not where it runs, nor in what portions."""
        return self.model_dump(mode="json", exclude={"device", "tensorboard", "chunk", "memory"})

    @property
    def memory_bytes(self) -> float:
        """`memory` in bytes."""
        return self.memory * 2**30

    def suited(self, method: type[Method]) -> TrainingSpec:
        """This spec with what is `"auto"` filled in; batch size and epochs stay so unless the method has its own."""
        usual = {"loss": "info_nce", "learning_rate": 3e-3, "weight_decay": 0.05, "schedule": "cosine"}
        known = {**usual, **method.suits}
        chosen = {key: value for key, value in known.items() if getattr(self, key) == "auto"}
        spec = self.model_copy(update=chosen)
        if spec.label_smoothing == "auto":
            spec = spec.model_copy(update={"label_smoothing": 0.1 if spec.loss == "info_nce" else 0.0})
        return spec


class Recipe(BaseModel):
    """A whole run.

    Attributes:
        name: of the run.
        output: folder of the run; `runs/<name>` where you are, unless given.
        data: where the groups come from.
        encoders: by modality.
        features: where encoders' outputs are kept.
        method: what is trained.
        tuning: by modality, how its encoder is trained too; frozen where there is none.
        training: how.
        evaluation: what is measured.
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
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec)

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        for modality in self.tuning:
            if modality not in self.encoders:
                raise UnknownNameError("modality of [tuning]", modality, self.encoders)
        if self.evaluation.text_similarity is not None and "text" not in self.kinds.values():
            found = ", ".join(f"{modality} ({kind})" for modality, kind in self.kinds.items())
            raise RecipeError(f"evaluation.text_similarity needs an encoder of kind 'text'; found {found}. Remove it.")
        return self

    @property
    def kinds(self) -> dict[str, str]:
        """Modality to kind of item."""
        return {modality: spec.kind for modality, spec in self.encoders.items()}

    @property
    def folder(self) -> Path:
        """Where the run lives."""
        return Path(self.output) if self.output else Path("runs") / self.name


def parse(model: type[BaseModel], table: Mapping[str, Any], where: str = "") -> Any:
    """Check a table against a pydantic model.

    Raises:
        RecipeError: names the key, what was found and what was expected; for an unknown key the nearest known one.
    """
    try:
        return model.model_validate(table)
    except ValidationError as error:
        problems = [_explain(model, where, problem) for problem in error.errors()]
        raise RecipeError("\n".join(dict.fromkeys(problems))) from None


def load_recipe(path: Path | str, overrides: Iterable[str] = (), output: Path | str | None = None) -> Recipe:
    """Read a recipe file, with `section.key=value` overrides on top.

    Raises:
        RecipeError: no such file, not TOML, an unknown key, a value of the wrong kind.
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
    return make_recipe(table)


def make_recipe(table: Mapping[str, Any]) -> Recipe:
    """A recipe from nested dictionaries, as TOML would give them.

    Raises:
        RecipeError: as `load_recipe`.
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
        (_section(evaluation, "zero_shot"), ("data",), False),
        (_section(evaluation, "text_similarity"), ("data", "calibration"), True),
        *((spec, ("model",), True) for spec in encoders.values() if isinstance(spec, dict)),
    ]
    for section, keys, may_be_id in places:
        for key in keys:
            if isinstance(value := section.get(key), str):
                section[key] = anchor_path(value, folder, may_be_id)


def anchor_path(value: str, folder: Path, may_be_id: bool) -> str:
    """A path made absolute.

    A URI stays as it is, and so does one that may be an id, unless it exists, begins with a dot or is a table.
    """
    if is_uri(value):
        return value
    path = Path(os.path.normpath(folder / Path(value).expanduser()))
    return str(path) if path.exists() or value.startswith(".") or is_table(value) or not may_be_id else value


def override_table(table: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """The table with `key=value` put in, keys of inner tables with dots before them; changed in place.

    Raises:
        RecipeError: an override is not of this form.
    """
    for override in overrides:
        _override(table, override)
    return table


def _section(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = table.get(key)
    return found if isinstance(found, dict) else {}


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


def _explain(model: type[BaseModel], where: str, problem: Any) -> str:
    location = ".".join(str(part) for part in (where, *problem["loc"]) if part != "")
    if problem["type"] == "extra_forbidden":
        known = _fields(model, problem["loc"][:-1])
        near = get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"unknown key {location!r}.{hint} Known here: {', '.join(known)}."
    if problem["type"] == "missing":
        return f"missing key {location!r}."
    found = "" if isinstance(problem["input"], dict) else f", found {problem['input']!r}"
    if isinstance(cause := problem.get("ctx", {}).get("error"), LightCRLError):
        return f"{location}: {cause}"
    return f"{location}: {problem['msg'].removeprefix('Value error, ')}{found}."


def _fields(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Names of the keys allowed at `location` below `model`."""
    current: Any = model
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel) and part in current.model_fields:
            current = current.model_fields[part].annotation
        current = _model_within(current)
    return list(current.model_fields) if current is not None else []


def _model_within(annotation: Any) -> Any:
    """The pydantic model inside an annotation such as `dict[str, Spec]` or `Spec | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _model_within(argument)) is not None:
            return found
    return None
