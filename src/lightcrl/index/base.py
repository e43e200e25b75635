"""What passes through an index: entries on the way in, records that are kept, hits on the way out; and its engines.

An engine keeps vectors by number and finds the nearest. It changes nothing in place: every change gives a new *token*,
a small JSON value that stands for the engine's state. The catalog keeps the token in the same transaction as the items,
so that both are seen together or not at all; what an engine has written behind the last token kept does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from lightcrl.data.base import Item, Rejection
from lightcrl.registry import Table

Token: TypeAlias = Mapping[str, Any]
"""The state of an engine, as JSON."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One item to be added.

    Attributes:
        modality: whose item it is.
        item: its content; `item.key` tells whether it has changed.
        id: its name in the index. Where it is given, an item of the same id is replaced; else the place of a file, or a
            line of a table, tells which item this is.
        path: the file, absolute; None of what lies in no file of its own.
        text: the text itself, of texts.
        group: name of what belongs together; items of one group are not each other's chance.
        metadata: further columns: numbers, texts or None.
        vector: [d] its embedding, where it is there already.
        place: where it lies, of what has neither an id nor a path: `/data/captions.csv:17`.
    """

    modality: str
    item: Item
    id: str | None = None
    path: str | None = None
    text: str | None = None
    group: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    vector: np.ndarray | None = None
    place: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One item as the index keeps it.

    Attributes:
        id: its name, unique in the index.
        modality: whose item it is.
        path: the file, absolute; None of what lies in no file of its own.
        text: the text itself, of texts.
        digest: of its content.
        group: name of what belongs together, where the source says so.
        metadata: by column; None where it has none.
    """

    id: str
    modality: str
    path: str | None
    text: str | None
    digest: str
    group: str | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Hit:
    """One result of a search.

    Attributes:
        id: name of the item.
        score: cosine similarity to the query.
        share: of random items, how many would score as high: 0.001 is one in a thousand. None where the index has no
            sample of such queries.
        modality: of the item.
        path: its file, absolute; None of what lies in no file of its own.
        text: the text itself, of texts.
        metadata: by column.
    """

    id: str
    score: float
    share: float | None
    modality: str
    path: str | None
    text: str | None
    metadata: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The hit as JSON."""
        return {name: getattr(self, name) for name in self.__slots__} | {"metadata": dict(self.metadata)}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a composed query.

    Attributes:
        item: a text, a picture or a sound, as `Embedder.encode` takes them; of `like`, an id.
        weight: its share of the query.
        kind: `"text"`, `"image"`, `"audio"` or `"like"`, where the argument does not say it (`minus`).
        modality: whose item it is, where the model has several of that kind.
    """

    item: Any
    weight: float = 1.0
    kind: str | None = None
    modality: str | None = None


@dataclass(frozen=True)
class Added:
    """What came of adding.

    Attributes:
        added: new items.
        replaced: items whose content had changed.
        present: items that were there already, whose metadata may be new.
        encoded: items that went through an encoder; the others' embeddings were at hand.
        rejected: what was set aside, with its reason.
    """

    added: int = 0
    replaced: int = 0
    present: int = 0
    encoded: int = 0
    rejected: tuple[Rejection, ...] = ()

    def __add__(self, other: Added) -> Added:
        return Added(
            self.added + other.added,
            self.replaced + other.replaced,
            self.present + other.present,
            self.encoded + other.encoded,
            self.rejected + other.rejected,
        )


@dataclass(frozen=True)
class Neighbours:
    """The nearest others of every item.

    Attributes:
        ids: N of them.
        places: [N, K] int64, numbers in `ids`, the nearest first; -1 where there is no further one.
        scores: [N, K] float32, their similarities; minus infinity where there is none.
    """

    ids: tuple[str, ...]
    places: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Scope:
    """The items that a search may give.

    Attributes:
        modality: their modality, if they are all items of it and nothing else is asked.
        numbers: gives the numbers of all of them [M] int64, ascending.
    """

    modality: str | None
    numbers: Callable[[], np.ndarray]


class View(Protocol):
    """One state of an engine, to be read; it stays as it is while others write."""

    def search(self, queries: np.ndarray, k: int, scope: Scope | None) -> tuple[np.ndarray, np.ndarray]:
        """The items nearest to each query, best first.

        Args:
            queries: [Q, d] float32.
            k: how many.
            scope: of which items; None for all.

        Returns:
            Numbers [Q, K] int64, -1 where there is no further one, and inner products [Q, K] float32; K <= k.
        """
        ...

    def vectors(self, numbers: np.ndarray) -> np.ndarray:
        """[N, d] float32 of the items at `numbers` [N], all of which are there."""
        ...


class Engine(Protocol):
    """Where vectors are kept; made of the folder of the index, d, the dtype and the engine's own options.

    Attributes:
        options: its options with their defaults.
    """

    options: Mapping[str, Any]

    def create(self) -> Token:
        """The state with nothing in it."""
        ...

    def append(self, token: Token, numbers: np.ndarray, vectors: np.ndarray, modalities: Sequence[str]) -> Token:
        """Store vectors [N, d] under ascending new `numbers` [N]; they are on the disk when it returns.

        What was stored behind `token` by a writer that died is dropped.
        """
        ...

    def remove(self, token: Token, numbers: np.ndarray) -> Token:
        """Take note that the items at `numbers` [N] are gone; `open` is told of them until `compact`."""
        ...

    def settle(self, token: Token) -> Token:
        """Do what searches are quicker for after a command has changed much; may do nothing."""
        ...

    def compact(self, token: Token, gone: np.ndarray) -> Token:
        """Rewrite without the items at `gone` [N]."""
        ...

    def sweep(self, token: Token) -> None:
        """Remove what neither `token` nor a reader of the last minutes needs."""
        ...

    def open(self, token: Token, gone: np.ndarray) -> View:
        """The state of `token` without the items at `gone` [N].

        Raises:
            FileNotFoundError: it is no longer there; the catalog has a newer one.
        """
        ...


MakeEngine: TypeAlias = Callable[[Path, int, str, Mapping[str, Any]], Engine]

ENGINES: Table[MakeEngine] = Table(
    "index engine",
    {
        "exact": "lightcrl.index.exact:Exact",
        "lancedb": "lightcrl.index.lancedb:Lance",
    },
)
