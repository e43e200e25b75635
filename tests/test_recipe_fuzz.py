"""Whatever stands in a recipe, the answer is a run or a designed error: never an internal one.

A working recipe is changed in up to four keys, drawn from all that there are, each to a value in or out of its range.
`LIGHTCRL_FUZZ=2000` runs so many examples in place of the few of the suite.
"""

from __future__ import annotations

import math
import os
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from lightcrl import pipeline
from lightcrl.errors import LightCRLError
from lightcrl.losses import LOSSES
from lightcrl.methods import METHODS
from lightcrl.pipeline import run
from lightcrl.recipe import Recipe, make_recipe

EXAMPLES = int(os.environ.get("LIGHTCRL_FUZZ", "0"))

Path_ = tuple[str, ...]
Change = tuple[Path_, Any]

NUMBERS = (-1, 0, 1, 2, 3, 8, 64, 10**9, 2**64, 10**30)
FLOATS = (-1.0, -0.0, 1e-300, 0.05, 0.3, 0.5, 0.999, 1.0, 1.5, 64.0, 1e308, math.inf, -math.inf, math.nan)
WORDS = (
    "",
    " ",
    "auto",
    "text",
    "image",
    "red",
    "a.b",
    "keys",
    "é\u2028",
    "\x00",
    "x" * 300,
    "./nowhere",
    "{}",
    "{",
    "-1",
)
JUNK = (None, True, [], ["a", 1], {}, {"a": {"b": 1}}, *WORDS, *NUMBERS, *FLOATS)
SIMPLE: Mapping[Any, tuple[Any, ...]] = {bool: (False, True), int: NUMBERS, float: FLOATS, str: WORDS}

# Keys whose values name files, modules or other members; what lies on a network is left out.
NAMES: Mapping[str, tuple[Any, ...]] = {
    "source": ("table", "folder", "webdataset", "synthetic", "tabel", "math:floor", "nowhere:X", ":", "a:"),
    "model": ("builtin", "builtin:ngrams", "builtin:nothing", "nowhere:X", "math:floor", ":", "./nowhere", "\x00"),
    "engine": ("local", "lokal", "math:floor", ":"),
    "loss": (*LOSSES, "infonce", ""),
    "tokens": ("auto", "pooled", "cls", "cls+mean", "mean|all", "grid:0", "all", "cls,mean", "cls|", "médian"),
    "folder": ("./features", "", "\x00", "x" * 300),
    "device": ("auto", "cpu"),
    "fusion": ("addition", "additive_attention", "subtraction"),
    "modality": ("text", "image", "sound", ""),
    "baselines": (["linear"], ["csa"], ["convirt"], ["nothing"], ["math:floor"], "linear", [1]),
    "locked": ("text", "sound", ""),
}
PLACES = ("", " ", "/", "\x00", "x" * 300, "./nowhere.csv", "./nowhere", "~")
OPTIONS: Mapping[str, tuple[Any, ...]] = {
    "evaluation.zero_shot.data": PLACES,
    "evaluation.text_similarity.data": PLACES,
    "evaluation.text_similarity.calibration": (None, *PLACES),
    "data.options": ({}, {"groups": 1}, {"groups": 0}, {"captions": 2}, {"seed": "a"}, {"nothing": 1}, {"groups": 3.5}),
    "encoders.image.options": (
        {},
        {"grid": 2},
        {"grid": 0},
        {"grid": "a"},
        {"size": -8},
        {"size": None},
        {"nothing": 1},
    ),
    "encoders.text.options": ({}, {"dim": 3}, {"dim": 0}, {"dim": 2**64}, {"dim": "a"}, {"nothing": 1}),
}


def model_within(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model that an annotation holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for argument in get_args(annotation) if (found := model_within(argument))), None)


def keys(model: type[BaseModel], where: Path_ = ()) -> Iterator[tuple[Path_, FieldInfo]]:
    """Every key below a model with its field; a table of tables has those of `image` and `text`."""
    for name, field in model.model_fields.items():
        yield (*where, name), field
        inner = model_within(field.annotation)
        if inner is not None:
            members = ("image", "text") if get_origin(field.annotation) is dict else ("",)
            for member in members:
                yield from keys(inner, (*where, name, *filter(None, [member])))


def options() -> Iterator[tuple[Path_, FieldInfo]]:
    """Every option of every method; those of one name are alike but for defaults and bounds."""
    for name in METHODS:
        for option, field in METHODS.load(name).Options.model_fields.items():
            yield ("method", option), field


UNKNOWN = [("nothing",), ("training", "lerning_rate"), ("tuning", "sound"), ("encoders", "sound")]
KEYS = [
    *{f"{path} {field!r}": (path, field) for path, field in [*keys(Recipe), *options()]}.values(),
    *((path, FieldInfo(annotation=int)) for path in UNKNOWN),
]


def pool(annotation: Any) -> tuple[Any, ...]:
    """Values of an annotation's type."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return pool(arguments[0])
    if origin in (Union, types.UnionType):
        return tuple(value for argument in arguments for value in pool(argument))
    if origin is Literal:
        return arguments
    if origin is tuple:
        values = pool(arguments[0])
        return [], *([value] for value in values), list(values[:3])
    return (None,) if annotation is types.NoneType else SIMPLE.get(annotation, ({},))


@cache
def values(number: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """For a key of `KEYS`, values that it allows by itself, and values of any kind."""
    path, field = KEYS[number]
    named = OPTIONS.get(".".join(path), NAMES.get(path[-1]))
    if path == ("method", "name"):
        named = (*METHODS, "defe", "math:floor", "lightcrl.methods.base:Method", ":")
    if named:
        # Words would be taken for ids on a hub, and folders be made of them.
        return named, named if path[-1] in ("model", "folder") else (*named, *JUNK)
    adapter = TypeAdapter(Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation)

    def allowed(value: Any) -> bool:
        try:
            adapter.validate_python(value)
        except ValidationError:
            return False
        return True

    found = pool(field.annotation)
    return tuple(filter(allowed, found)) or found, (*found, *JUNK)


@st.composite
def change(draw: st.DrawFn) -> Change:
    """A key and a value for it, mostly one that it allows."""
    number = draw(st.integers(0, len(KEYS) - 1))
    inside, outside = values(number)
    return KEYS[number][0], draw(st.sampled_from(outside if draw(st.integers(0, 4)) == 4 else inside))


CHANGES = st.lists(change(), min_size=1, max_size=4)


def changed(table: dict[str, Any], changes: list[Change]) -> dict[str, Any]:
    """The table with the changes in it; tables on the way that are none become ones."""
    for path, value in changes:
        branch = table
        for key in path[:-1]:
            if not isinstance(branch.get(key), dict):
                branch[key] = {}
            branch = branch[key]
        branch[path[-1]] = value
    return table


def synthetic(features: Path, method: str) -> dict[str, Any]:
    """A recipe over a few generated groups that runs in a tenth of a second."""
    return {
        "name": "fuzz",
        "data": {"source": "synthetic", "options": {"groups": 12, "captions": 1}, "dev_fraction": 0.3},
        "encoders": {name: {"kind": name, "model": "builtin"} for name in ("image", "text")},
        "features": {"folder": str(features)},
        "method": {"name": method},
        "training": {"epochs": 1, "batch_size": 4, "tensorboard": False, "precision": "float32"},
    }


def fuzz(usual: int) -> Any:
    """Settings with so many examples, unless the environment says how many."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=EXAMPLES or usual, suppress_health_check=checks)


class ReachedError(Exception):
    """All that is looked at before encoding was passed."""


@fuzz(60)
@given(method=st.sampled_from(list(METHODS)), changes=CHANGES)
def test_before_encoding_there_are_designed_errors_alone(tmp_path, monkeypatch, method, changes):
    monkeypatch.chdir(tmp_path)

    def encode(*args: Any, **more: Any) -> Any:
        raise ReachedError

    monkeypatch.setattr(pipeline, "encode_each", encode)
    table = changed(synthetic(tmp_path / "features", method), changes)
    with suppress(LightCRLError, ReachedError):
        run(make_recipe(table), output=tmp_path / "run")
