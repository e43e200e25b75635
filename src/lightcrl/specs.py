"""Validation of tables by pydantic models: errors name the wrong key or value, and the nearest valid key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from lightcrl.errors import LightCRLError, RecipeError

MEMBER = re.compile(r"int|float|str|bool|none|constrained-\w+|(literal|list|tuple|dict|function-\w+)\[.*\]")
"""Names by which pydantic tells the types of a union apart, as the last part of an error's location."""
EXPECTED = "Input should be "
WORDS: Mapping[str, str] = {
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "a string",
    "a valid boolean": "true or false",
    "a valid tuple": "a list",
    "a valid dictionary": "a table",
}
"""Types as TOML calls them, by pydantic's words."""


def parse(model: type[BaseModel], table: Mapping[str, Any], where: str = "") -> Any:
    """Validate a table by a pydantic model.

    Raises:
        RecipeError: a key or value is invalid; the message has the value, the expected one and the nearest key.
    """
    try:
        return model.model_validate(table)
    except ValidationError as error:
        problems = [_explain(model, where, problem) for problem in _united(error.errors())]
        raise RecipeError("\n".join(dict.fromkeys(problems))) from None


def _united(problems: Iterable[Any]) -> list[dict[str, Any]]:
    """Return the errors, those of the types of a union as one: what it should be by one type, or by another."""
    united: dict[Any, dict[str, Any]] = {}
    for number, problem in enumerate(problems):
        place, location, message = number, problem["loc"], _in_words(problem["msg"])
        if message.startswith(EXPECTED) and len(location) > 1 and MEMBER.fullmatch(str(location[-1])):
            place = location = location[:-1]
            if place in united:
                message = f"{united[place]['msg']} or {message.removeprefix(EXPECTED)}"
        united[place] = {**problem, "loc": location, "msg": message}
    return list(united.values())


def _in_words(message: str) -> str:
    """Return a message of pydantic with TOML's names of types, without what the value is not.

    >>> _in_words("Input should be a valid integer, unable to parse string as an integer")
    'Input should be a whole number'
    """
    expected = WORDS.get(message.removeprefix(EXPECTED).partition(", ")[0])
    return f"{EXPECTED}{expected}" if expected else message


def toml_text(table: Mapping[str, Any]) -> str:
    """Return a table of JSON values as TOML; entries without a value are left out.

    >>> print(toml_text({"name": "a", "data": {"path": "b.csv", "columns": {"text": "c d"}}}), end="")
    name = "a"
    <BLANKLINE>
    [data]
    path = "b.csv"
    <BLANKLINE>
    [data.columns]
    text = "c d"
    """
    return "\n".join(_toml_lines(table, ())).strip() + "\n"


def _toml_lines(table: Mapping[str, Any], where: tuple[str, ...]) -> Iterator[str]:
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping) and value is not None}
    if where and (plain or not table):
        yield from ("", f"[{'.'.join(map(_toml_key, where))}]")
    for key, value in plain.items():
        yield f"{_toml_key(key)} = {_toml_value(value)}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _toml_lines(value, (*where, key))


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml_key(key)} = {_toml_value(entry)}" for key, entry in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml_value, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _explain(model: type[BaseModel], where: str, problem: Any) -> str:
    location = ".".join(str(part) for part in (where, *problem["loc"]) if part != "")
    if problem["type"] == "extra_forbidden":
        keys, key = _fields(model, problem["loc"][:-1]), str(problem["loc"][-1])
        near = _nearest(key, keys, 0.8) or _elsewhere(model, key) or _nearest(key, keys, 0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"unknown key {location!r}.{hint} Known here: {', '.join(keys)}."
    if problem["type"] == "missing":
        return f"missing key {location!r}."
    given = "" if isinstance(problem["input"], dict) else f", found {problem['input']!r}"
    if isinstance(cause := problem.get("ctx", {}).get("error"), LightCRLError):
        # A table that its own class validates already has the whole location in its message.
        return str(cause) if location and location in str(cause) else f"{location}: {cause}"
    return f"{location}: {problem['msg'].removeprefix('Value error, ')}{given}."


def _fields(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Return the keys allowed at `location` below `model`."""
    current: Any = model
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel) and part in current.model_fields:
            current = current.model_fields[part].annotation
        current = _model_within(current)
    return list(current.model_fields) if current is not None else []


def _elsewhere(model: type[BaseModel], key: str) -> list[str]:
    """Return the place of a key of another table, such as `training.epochs`; one of a table of tables comes last."""
    tables = {name: (field.annotation, _model_within(field.annotation)) for name, field in model.model_fields.items()}
    single: dict[str, str] = {}
    several: dict[str, str] = {}
    for name, (annotation, inner) in tables.items():
        for field in getattr(inner, "model_fields", ()):
            if inner is annotation:
                single.setdefault(field, f"{name}.{field}")
            else:
                several.setdefault(field, f"{name}.<name>.{field}")
    return [places[near] for places in (single, several) for near in _nearest(key, [*places], 0.8)][:1]


def _nearest(key: str, keys: list[str], least: float) -> list[str]:
    """Return the key that is most like `key`, if any is at least so much like it, from 0 to 1."""
    return get_close_matches(key, keys, n=1, cutoff=least)


def _model_within(annotation: Any) -> Any:
    """Return the pydantic model inside an annotation such as `dict[str, Spec]` or `Spec | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (inner := _model_within(argument)) is not None:
            return inner
    return None
