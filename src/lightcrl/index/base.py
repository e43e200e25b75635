"""The types of an index: entries to be added, stored records, hits of a search; and the engines.

An engine stores vectors by number and finds the nearest. It changes nothing in place: every change returns a new
*token*, a small JSON value that identifies the engine's state. The catalog stores the token in the same transaction as
the items, so readers see both or neither. Data that an engine has written after the last stored token does not count.
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
        modality: modality of the item.
        item: its content; `item.key` changes with it.
        id: its name in the index. An entry with an id replaces the item of the same id; without one, the place (a file,
            or a line of a table) identifies the item.
        path: its file, absolute; None if the item has no file of its own.
        text: the text itself, if the item is a text.
        group: name of its group; items of one group do not count as random pairs.
        metadata: further columns: numbers, texts or None.
        vector: [d] its embedding, if it is available already.
        place: its place if it has neither an id nor a path: `/data/captions.csv:17`.
        run: folder of the run whose data holds the item, if the item has neither a path nor a text.
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
    run: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One item as the index stores it.

    Attributes:
        id: its name, unique in the index.
        modality: modality of the item.
        path: its file, absolute; None if the item has no file of its own.
        text: the text itself, if the item is a text.
        digest: digest of its content.
        group: name of its group, if the source gives one.
        metadata: values by column; None in a column that the item lacks.
        preview: true if the index stores a preview of the item (`lightcrl.index.previews`).
    """

    id: str
    modality: str
    path: str | None
    text: str | None
    digest: str
    group: str | None
    metadata: Mapping[str, Any]
    preview: bool = False


@dataclass(frozen=True, slots=True)
class Hit:
    """One result of a search.

    Attributes:
        id: name of the item.
        score: cosine similarity to the query.
        share: share of random items that would score as high: 0.001 is one in a thousand. None if the index has no
            sample of such queries.
        modality: modality of the item.
        path: its file, absolute; None if the item has no file of its own.
        text: the text itself, if the item is a text.
        metadata: values by column.
        preview: true if the index stores a preview of the item (`lightcrl.index.previews`).
    """

    id: str
    score: float
    share: float | None
    modality: str
    path: str | None
    text: str | None
    metadata: Mapping[str, Any]
    preview: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the hit as JSON."""
        return {name: getattr(self, name) for name in self.__slots__} | {"metadata": dict(self.metadata)}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a composed query.

    Attributes:
        item: a text, a picture or a sound, in any form that `Embedder.encode` takes; an id for `like`.
        weight: factor of its embedding in the sum.
        kind: `"text"`, `"image"`, `"audio"` or `"like"`; needed where the argument does not imply it (`minus`).
        modality: modality of the item, if the model has several of that kind.
        vector: embedding [d] of modality `modality` in place of the item's own, such as one that a prior makes.
    """

    item: Any
    weight: float = 1.0
    kind: str | None = None
    modality: str | None = None
    vector: np.ndarray | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Added:
    """Result of adding items.

    Attributes:
        added: number of new items.
        replaced: number of items with changed content.
        present: number of items that the index held already; their metadata may be new.
        encoded: number of items that went through an encoder; the embeddings of the others were available.
        rejected: items set aside, with their reasons.
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
    """The nearest other items of every item.

    Attributes:
        ids: N ids of items.
        places: [N, K] int64, positions in `ids`, the nearest first; -1 where there is no further item.
        scores: [N, K] float32, their cosine similarities; minus infinity where there is no further item.
    """

    ids: tuple[str, ...]
    places: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Scope:
    """The items that a search may return.

    Attributes:
        modality: their modality, if the scope is all items of one modality.
        numbers: function that returns the numbers of all of them [M] int64, ascending.
    """

    modality: str | None
    numbers: Callable[[], np.ndarray]


class View(Protocol):
    """One readable state of an engine; it stays unchanged while others write."""

    def search(self, queries: np.ndarray, k: int, scope: Scope | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the items nearest to each query, best first.

        Args:
            queries: [Q, d] float32.
            k: number of items.
            scope: the items to search; None for all.

        Returns:
            Numbers [Q, K] int64, -1 where there is no further item, and inner products [Q, K] float32; K <= k.
        """
        ...

    def vectors(self, numbers: np.ndarray) -> np.ndarray:
        """Return the vectors [N, d] float32 of the items at `numbers` [N], all of which must be there."""
        ...


class Engine(Protocol):
    """A store of vectors; made from the folder of the index, d, the dtype and the engine's own options.

    Attributes:
        options: its options with their defaults.
    """

    options: Mapping[str, Any]

    def create(self) -> Token:
        """Make an empty engine and return its state."""
        ...

    def append(self, token: Token, numbers: np.ndarray, vectors: np.ndarray, modalities: Sequence[str]) -> Token:
        """Store vectors [N, d] under ascending new `numbers` [N]; they are on the disk on return.

        Data stored after `token` by a killed writer is dropped.
        """
        ...

    def remove(self, token: Token, numbers: np.ndarray) -> Token:
        """Mark the items at `numbers` [N] as removed; `open` receives them as `gone` until `compact`."""
        ...

    def settle(self, token: Token) -> Token:
        """Optimise for searches after a command has changed much; may do nothing."""
        ...

    def compact(self, token: Token, gone: np.ndarray) -> Token:
        """Rewrite the vectors without the removed items at `gone` [N]."""
        ...

    def sweep(self, token: Token) -> None:
        """Delete files that neither `token` nor a reader of the last minutes needs."""
        ...

    def open(self, token: Token, gone: np.ndarray) -> View:
        """Return the state of `token` without the removed items at `gone` [N].

        Raises:
            FileNotFoundError: the state is no longer there; the catalog has a newer one.
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
