"""The `[heads.<name>]` tables of a recipe, and the heads that they describe."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import isabstract
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lightcrl.errors import RecipeError
from lightcrl.heads import HEADS, Head, Space
from lightcrl.machine import seed_draws
from lightcrl.specs import parse

OWN = ("kind", "seed", "apart", "held_out", "space_training", "training", "options")
"""Keys of a head's table that are not options of the head."""


class HeadSpec(BaseModel):
    """The `[heads.<name>]` table: how a head is made and trained; every other key is an option of that head.

    Attributes:
        kind: a member of `HEADS`, or `"package.module:Class"`; by default the table's name.
        seed: seed of fresh weights, batches and dropout.
        apart: share of the training groups that are set apart for the head, and embedded by a second space that is
            trained on the others: pairs that the space itself was trained on look too good to it. 0 trains the head on
            all training groups, embedded by the space itself.
        held_out: share of the head's training groups that choose the best head instead; 0 uses dev.
        space_training: changes of the model's training settings for the second space.
        training: training settings as in `[training]`.
        options: the head's own options, checked against its `Options`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    seed: int = Field(default=0, ge=0, lt=2**63)
    apart: float = Field(default=0.0, ge=0, lt=1)
    held_out: float = Field(default=0.0, ge=0, lt=1)
    space_training: dict[str, Any] = {}
    training: dict[str, Any] = {}
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, table: Any) -> Any:
        """Collect the keys beside `OWN` as options, and add the head's defaults."""
        if not isinstance(table, dict):
            return table
        options = table.get("options", {})
        if not isinstance(options, dict):
            raise ValueError(f"options is {options!r}, expected a table")
        given = {**{key: value for key, value in table.items() if key not in OWN}, **options}
        kept = {key: value for key, value in table.items() if key in OWN}
        kind = head_class(table.get("kind"))
        return {**kind.defaults, **kept, "options": parse(kind.Options, given, "heads").model_dump(mode="json")}


def name_heads(tables: Any) -> Any:
    """Return the `[heads]` table with `kind` filled in: by default the name of each table."""
    if not isinstance(tables, Mapping):
        return tables
    return {name: {"kind": name, **table} if isinstance(table, Mapping) else table for name, table in tables.items()}


def head_class(kind: Any) -> type[Head]:
    """Return the class that a recipe calls `kind`.

    Raises:
        UnknownNameError: there is no such head.
        RecipeError: the named object is not a concrete head.
    """
    if not isinstance(kind, str):
        raise RecipeError(f"kind of a head is {kind!r}, expected a member of HEADS or 'package.module:Class'.")
    head: Any = HEADS.load(kind)
    if not (isinstance(head, type) and issubclass(head, Head)) or isabstract(head):
        raise RecipeError(f"head {kind!r} is {head!r}, expected a subclass of lightcrl.heads.Head with `loss`.")
    return head


def make_head(kind: str, space: Space, options: Mapping[str, Any], seed: int = 0) -> Head:
    """Make a head with initial weights drawn by `seed`.

    Raises:
        HeadError: the space lacks what the head needs.
    """
    chosen = head_class(kind)
    with torch.random.fork_rng(devices=[]):
        seed_draws(seed)
        return chosen(space, chosen.Options.model_validate(options))
