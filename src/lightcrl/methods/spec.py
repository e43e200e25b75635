"""The `[method]` table of a recipe, and the method that it describes."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import isabstract
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, model_validator

from lightcrl.errors import RecipeError
from lightcrl.losses import LOGIT_BIAS_START, LOGIT_SCALE_START
from lightcrl.machine import seed_draws
from lightcrl.methods import METHODS, Method, MethodOptions
from lightcrl.specs import parse
from lightcrl.tokens import TokenSpec


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
        """Collect the keys beside `name` as options, and add the method's defaults."""
        if not isinstance(table, dict):
            return table
        name, options = table.get("name", "dfe"), table.get("options", {})
        if not isinstance(options, dict):
            raise ValueError(f"options is {options!r}, expected a table")
        given = {**{key: value for key, value in table.items() if key not in ("name", "options")}, **options}
        return {"name": name, "options": parse(method_class(name).Options, given, "method").model_dump(mode="json")}

    def parsed(self) -> MethodOptions:
        """The options as an object of the method's `Options`."""
        return METHODS.load(self.name).Options.model_validate(self.options)


def method_class(name: Any) -> type[Method]:
    """Return the class that a recipe calls `name`.

    Raises:
        UnknownNameError: there is no such method.
        LightCRLError: its module cannot be imported.
        RecipeError: the named object is not a concrete method.
    """
    if not isinstance(name, str):
        raise RecipeError(f"method.name is {name!r}, expected a member of METHODS or 'package.module:Class'.")
    method: Any = METHODS.load(name)
    if not (isinstance(method, type) and issubclass(method, Method)) or isabstract(method):
        expected = "expected a subclass of lightcrl.methods.Method with `embed`"
        raise RecipeError(f"method {name!r} is {method!r}, {expected}.")
    return method


def make_method(
    name: str, modalities: Mapping[str, TokenSpec], options: Mapping[str, Any], loss: str, seed: int = 0
) -> Method:
    """Make a method with initial weights drawn by `seed`, and the loss's initial logit scale and bias."""
    kind = METHODS.load(name)
    with torch.random.fork_rng():
        seed_draws(seed)
        method = kind(modalities, kind.Options.model_validate(options))
    method.start_logits(LOGIT_SCALE_START.get(loss, 1 / 0.07), LOGIT_BIAS_START.get(loss))
    return method
