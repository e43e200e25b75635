"""The paper's published figures, kept in published.json, and its claims."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict

from lightcrl.errors import UnknownNameError
from lightcrl.methods import METHODS
from lightcrl.specs import parse
from lightcrl.studies.entries import Entry

RAW = "raw"
"""Label of the frozen-encoder baselines as a rival."""


class Table(BaseModel):
    """One published table.

    Attributes:
        task: name of the task in `TASKS`.
        data: data of the measurement.
        measures: measures of the columns.
        rows: figures in per cent, by the paper's name of a model or of an encoder.
        note: note for readers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    data: str
    measures: tuple[str, ...]
    rows: dict[str, tuple[float, ...]]
    note: str = ""


class Claim(BaseModel):
    """A claim of the paper about its encoder.

    Attributes:
        name: name of the claim.
        words: text of the claim.
        task: name, in `TASKS`, of the task that tests it.
        measures: measures that test it.
        against: rival: the paper's name of another model, or `"raw"` for the frozen-encoder baselines.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    words: str
    task: str
    measures: tuple[str, ...]
    against: str


class Published(BaseModel):
    """The paper's figures and claims.

    Attributes:
        source: source of the figures.
        setting: encoders and data behind all figures.
        operations: the paper's name of the encoder, by fusion operation.
        methods: the paper's name of any other method, by method.
        tables: tables by name.
        claims: claims, in the paper's order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    setting: str
    operations: dict[str, str]
    methods: dict[str, str]
    tables: dict[str, Table]
    claims: tuple[Claim, ...]

    def table(self, name: str) -> Table:
        """Return a table by its name.

        Raises:
            UnknownNameError: no table has this name; the message gives the nearest name.
        """
        if name not in self.tables:
            raise UnknownNameError("published table", name, self.tables)
        return self.tables[name]

    def name(self, entry: Entry) -> str | None:
        """Return the paper's name of a method, by its fusion operation if it has one; None if the paper has none."""
        options = METHODS.load(entry.method).Options.model_validate(entry.options)
        operation = getattr(options, "fusion", None)
        return self.operations.get(operation) if operation else self.methods.get(entry.method)

    def is_encoder(self, name: str | None) -> bool:
        """Return true if a name of the paper is that of its encoder with any fusion operation."""
        return name in self.operations.values()


@cache
def published() -> Published:
    """Return the paper's figures and claims; the file is read once."""
    text = files("lightcrl.studies.reproduce").joinpath("published.json").read_text(encoding="utf-8")
    facts: Published = parse(Published, json.loads(text), "published")
    return facts
