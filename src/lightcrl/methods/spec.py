"""The `[method]` table of a recipe, and a method made from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, model_validator

from lightcrl.losses import LOGIT_BIAS_START, LOGIT_SCALE_START
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


def make_method(
    name: str, modalities: Mapping[str, TokenSpec], options: Mapping[str, Any], loss: str, seed: int = 0
) -> Method:
    """A method with fresh weights drawn by `seed`, its logit scale and bias where the loss wants them to start."""
    kind = METHODS.load(name)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        method = kind(modalities, kind.Options.model_validate(options))
    method.start_logits(LOGIT_SCALE_START.get(loss, 1 / 0.07), LOGIT_BIAS_START.get(loss))
    return method
