"""Tables checked against pydantic models: a wrong key or value is named, with the nearest key that exists."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from lightcrl.errors import LightCRLError, RecipeError


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
        # A table checked by its own class names the whole place itself.
        return str(cause) if location and location in str(cause) else f"{location}: {cause}"
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
