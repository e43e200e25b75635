"""Searches of several clients at once, whose queries are searched in one product.

A product of many queries with a million vectors reads the vectors once; searches one by one read them once each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from lightcrl.embedder import Embedder
from lightcrl.errors import LightCRLError
from lightcrl.index import Index, Part
from lightcrl.index.outcome import Outcome
from lightcrl.index.query import Query, compose

JOINT = "searches"
"""Key of jobs that are searches."""


@dataclass(frozen=True)
class Search:
    """A search of one client.

    Attributes:
        given: parts to search for by kind; their items are decoded contents, ids or vectors.
        minus: parts to search away from.
        modality: modality of the results, if the search asks for one.
        where: the filter, if there is one.
        k: number of results.
        prior: true to search for texts by the embeddings that the model's prior makes.
    """

    given: Mapping[str, Sequence[Part]]
    minus: Sequence[Part]
    modality: str | None
    where: str | None
    k: int
    prior: bool = False

    @property
    def contents(self) -> list[Part]:
        """The parts that an encoder has to encode."""
        parts = [part for parts in self.given.values() for part in parts] + list(self.minus)
        return [part for part in parts if part.kind != "like"]

    def with_vectors(self, vectors: Mapping[int, np.ndarray]) -> Search:
        """Return the search with vectors in place of contents; `vectors` by identity (`id`) of the part."""

        def encoded(parts: Sequence[Part]) -> list[Part]:
            return [
                replace(part, item=vectors[id(part)], vector=None) if id(part) in vectors else part for part in parts
            ]

        given = {kind: encoded(parts) for kind, parts in self.given.items()}
        return replace(self, given=given, minus=encoded(self.minus))


class _Encoded:
    """Stand-in for an embedder whose items are vectors already."""

    def __init__(self, modalities: Mapping[str, str]) -> None:
        self.modalities = modalities

    def encode(self, items: Sequence[np.ndarray], modality: str) -> np.ndarray:
        return np.stack(items)


def search_together(
    index: Index, searches: Sequence[Search], like: Callable[[str], tuple[str, str, np.ndarray]]
) -> list[Outcome | LightCRLError]:
    """Return the outcome of each search, or its error; searches of one kind share a product.

    Args:
        index: the index.
        searches: searches with vectors in place of contents.
        like: function from an id to the id, modality and embedding [d] of an item of the index.
    """
    outcomes: list[Outcome | LightCRLError | None] = [None] * len(searches)
    together: dict[tuple[Any, ...], list[tuple[int, Query]]] = {}
    embedder = cast(Embedder, _Encoded(index.modalities))
    for place, search in enumerate(searches):
        try:
            given = {kind: list(parts) for kind, parts in search.given.items()}
            query = compose(lambda: embedder, like, given, list(search.minus))
        except LightCRLError as error:
            outcomes[place] = error
            continue
        key = (query.modality, search.modality, search.where, search.k)
        together.setdefault(key, []).append((place, query))
    for (_, modality, where, k), asked in together.items():
        try:
            for place, outcome in _outcomes(index, asked, modality, where, k):
                outcomes[place] = outcome
        except LightCRLError as error:
            outcomes = [error if place in dict(asked) else outcome for place, outcome in enumerate(outcomes)]
    return [cast(Outcome, outcome) for outcome in outcomes]


def _outcomes(
    index: Index, asked: Sequence[tuple[int, Query]], modality: str | None, where: str | None, k: int
) -> list[tuple[int, Outcome]]:
    """Return places and outcomes of queries of one modality, filter and number of results."""
    nearest = index.search_queries([query for _, query in asked], where=where, modality=modality, k=k)
    counts, kinds = index.counts(), index.modalities
    outcomes = []
    for (place, query), hits in zip(asked, nearest, strict=True):
        ordinary = index.ordinary(query.modality, hits, where=where)
        outcomes.append((place, Outcome({}, where, modality, tuple(hits), ordinary, counts, kinds)))
    return outcomes
