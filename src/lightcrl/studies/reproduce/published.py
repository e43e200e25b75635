"""The figures that the paper published, kept as facts in published.json, and what it claims from them."""

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
"""What a claim is against when it is against the frozen-encoder baselines."""


class Table(BaseModel):
    """One published table.

    Attributes:
        task: the task it is of, as in `TASKS`.
        data: what it was measured on.
        measures: of its columns.
        rows: per cent, by the paper's name of a model or of an encoder.
        note: what a reader has to know.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    data: str
    measures: tuple[str, ...]
    rows: dict[str, tuple[float, ...]]
    note: str = ""


class Claim(BaseModel):
    """What the paper says of its encoder.

    Attributes:
        name: of the claim.
        words: the claim itself.
        task: where it shows.
        measures: in what.
        against: the paper's name of another model, or `"raw"` for the frozen-encoder baselines.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    words: str
    task: str
    measures: tuple[str, ...]
    against: str


class Published(BaseModel):
    """All that is known of the paper's figures.

    Attributes:
        source: where they stand.
        setting: encoders and data behind all of them.
        operations: the paper's name of the encoder by fusion operation.
        methods: the paper's name of any other method.
        tables: by name.
        claims: in the paper's order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    setting: str
    operations: dict[str, str]
    methods: dict[str, str]
    tables: dict[str, Table]
    claims: tuple[Claim, ...]

    def table(self, name: str) -> Table:
        """A table by its name.

        Raises:
            UnknownNameError: there is none; says the nearest.
        """
        if name not in self.tables:
            raise UnknownNameError("published table", name, self.tables)
        return self.tables[name]

    def name(self, entry: Entry) -> str | None:
        """What the paper calls a method: by its fusion operation where it has one, else by the method itself."""
        options = METHODS.load(entry.method).Options.model_validate(entry.options)
        operation = getattr(options, "fusion", None)
        return self.operations.get(operation) if operation else self.methods.get(entry.method)

    def is_encoder(self, name: str | None) -> bool:
        """Whether the paper's name is that of its encoder, whatever the operation."""
        return name in self.operations.values()


@cache
def published() -> Published:
    """The facts, read once."""
    text = files("lightcrl.studies.reproduce").joinpath("published.json").read_text(encoding="utf-8")
    known: Published = parse(Published, json.loads(text), "published")
    return known
