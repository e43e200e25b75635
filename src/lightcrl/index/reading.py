"""Searches in the last commit of an index, which stays open until there is a newer one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np

from lightcrl.errors import QueryError, ShapeError, StoreError
from lightcrl.index.base import Engine, Hit, Neighbours, Record, Scope, View
from lightcrl.index.calibration import Calibration, Tail
from lightcrl.index.catalog import Catalog, State

BATCH = 1024
"""Number of items whose neighbours are searched for at a time."""

ATTEMPTS = 5
"""Greatest number of attempts to open a commit while newer commits replace its files."""


@dataclass(frozen=True)
class Opened:
    """One commit of an index, open for searches.

    Attributes:
        state: state of the catalog.
        view: view of the engine.
        calibration: calibration of the scores, if it was measured.
        counts: number of items by modality. Counting a million items takes longer than a search among them.
        scopes: numbers of the items by modality, of the modalities searched so far.
    """

    state: State
    view: View
    calibration: Calibration | None
    counts: Mapping[str, int]
    scopes: dict[str, np.ndarray] = field(default_factory=dict)


@final
class Reader:
    """Searches in the last commit; any number of threads may search at once."""

    def __init__(self, catalog: Catalog, engine: Engine, dim: int) -> None:
        self._catalog, self._engine, self._dim = catalog, engine, dim
        self._opened: Opened | None = None

    def opened(self) -> Opened:
        """Return the last commit.

        Raises:
            StoreError: its vectors are missing.
        """
        opened = self._opened
        if opened is not None and opened.state.generation == self._catalog.state().generation:
            return opened
        for _ in range(ATTEMPTS):
            state, gone = self._catalog.opened()
            try:
                view = self._engine.open(state.token, gone)
            except FileNotFoundError:
                continue
            opened = Opened(state, view, Calibration.unpack(self._catalog.calibration()), self._catalog.counts())
            self._opened = opened
            return opened
        raise StoreError(f"{self._catalog.path.parent} lacks the vectors of its catalog. Build the index again.")

    def item(self, id: str) -> tuple[int, Record]:
        """Return number and record of an item, by its id or the path of its file.

        Raises:
            QueryError: no item has this id or path.
        """
        named = self._catalog.named([id]).get(id) or self._catalog.at_path(str(Path(id).absolute()))
        if named is None:
            raise QueryError(f"no item {id!r} in {self._catalog.path.parent}; expected an id, or the path of a file.")
        return named

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """Return the embeddings [N, d] float32 of items by id."""
        named = self._catalog.named(ids)
        numbers = [(named.get(id) or self.item(id))[0] for id in ids]
        return self.opened().view.vectors(np.array(numbers, dtype=np.int64))

    def nearest(
        self, queries: np.ndarray, k: int, where: str | None, modality: str | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers and scores [Q, K] of the items nearest to each query [Q, d], as `View.search`.

        Raises:
            ShapeError: queries are of another width or not finite, or k is below 1.
            FilterError: the filter is invalid.
        """
        queries = np.asarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self._dim or k < 1 or not np.isfinite(queries).all():
            raise ShapeError(
                f"queries {list(queries.shape)}, the best {k}; expected finite ones [Q, {self._dim}], and at least the "
                "best 1."
            )
        opened = self.opened()
        return opened.view.search(queries, k, self._scope(opened, where, modality))

    def search(
        self, queries: np.ndarray, k: int, where: str | None, modality: str | None, asked: str | None
    ) -> list[list[Hit]]:
        """Return the k items nearest to each query [Q, d], best first; shares need the modality `asked` of the queries.

        Raises:
            LightCRLError: see `nearest`.
        """
        opened = self.opened()
        numbers, scores = self.nearest(queries, k, where, modality)
        records = self._catalog.records(np.unique(numbers[numbers >= 0]))
        tails: Mapping[Any, Tail] = opened.calibration.tails if opened.calibration else {}
        hits: list[list[Hit]] = [[] for _ in queries]
        for query, column in zip(*np.nonzero(numbers >= 0), strict=True):
            if (record := records.get(int(numbers[query, column]))) is not None:
                score = float(scores[query, column])
                tail = tails.get((asked, record.modality))
                share = float(tail.shares(np.array([score]))[0]) if tail else None
                hits[query].append(_hit(record, score, share))
        return hits

    def counts(self, where: str | None = None) -> dict[str, int]:
        """Return the number of items by modality: of all, or of those that a filter selects."""
        counts = self.opened().counts
        return dict(counts) if where is None else {name: len(self._catalog.numbers(name, where)) for name in counts}

    def search_each(
        self, queries: np.ndarray, k: int, where: str | None, modality: str | None, asked: str
    ) -> list[list[Hit]]:
        """Return the k best of each query [Q, d], ordered by share if shares of several modalities are measured."""
        opened = self.opened()
        counts, measured = opened.counts, set(opened.calibration.tails) if opened.calibration else set()
        if modality is None and len(counts) > 1 and measured >= {(asked, given) for given in counts}:
            sides = [self.search(queries, k, where, given, asked) for given in counts]
            hits = [[hit for side in lists for hit in side] for lists in zip(*sides, strict=True)]
            return [sorted(some, key=lambda hit: (hit.share or 0.0, -hit.score))[:k] for some in hits]
        return self.search(queries, k, where, modality, asked)

    def ordinary(self, asked: str, hits: Sequence[Hit], counts: Mapping[str, int]) -> float | None:
        """Return the share of ordinary queries with a best result no better than the best hit; None if not measured."""
        calibration = self.opened().calibration
        best: dict[str, float] = {}
        for hit in hits:
            best[hit.modality] = max(hit.score, best.get(hit.modality, hit.score))
        shares = [
            tail.ordinary(score, counts.get(modality, 0))
            for modality, score in best.items()
            if calibration and (tail := calibration.tails.get((asked, modality)))
        ]
        return max(shares, default=None)

    def calibration(self) -> list[dict[str, Any]]:
        """Return the calibrated pairs of modalities as JSON, each with its number of measured pairs."""
        calibration = self.opened().calibration
        return [
            {"query": asked, "item": given, "pairs": tail.pairs, "queries_from": tail.source}
            for (asked, given), tail in (calibration.tails.items() if calibration else ())
        ]

    def neighbours(self, k: int, where: str | None, modality: str | None) -> Neighbours:
        """Return the k nearest other items of every item, among the items of a filter and a modality."""
        opened = self.opened()
        numbers = self._catalog.numbers(modality, where)
        scope = Scope(None, lambda: numbers)
        places, scores = np.full((len(numbers), k), -1), np.full((len(numbers), k), -np.inf, np.float32)
        for start in range(0, len(numbers), BATCH):
            asking = numbers[start : start + BATCH]
            near, likeness = opened.view.search(opened.view.vectors(asking), k + 1, scope)
            others = (near != asking[:, None]) & (near >= 0)
            order = np.argsort(~others, axis=1, kind="stable")[:, :k]  # the item itself comes last
            kept = np.take_along_axis(others, order, 1)
            rows = slice(start, start + len(asking))
            at = np.searchsorted(numbers, np.take_along_axis(near, order, 1))
            places[rows, : order.shape[1]] = np.where(kept, at, -1)
            scores[rows, : order.shape[1]] = np.where(kept, np.take_along_axis(likeness, order, 1), -np.inf)
        records = self._catalog.records(numbers)
        return Neighbours(tuple(records[number].id for number in numbers.tolist()), places, scores)

    def _scope(self, opened: Opened, where: str | None, modality: str | None) -> Scope | None:
        if where is not None:
            numbers = self._catalog.numbers(modality, where)
            return Scope(None, lambda: numbers)
        if modality is None:
            return None

        def of_modality() -> np.ndarray:
            if modality not in opened.scopes:
                opened.scopes[modality] = self._catalog.numbers(modality)
            return opened.scopes[modality]

        return Scope(modality, of_modality)


def _hit(record: Record, score: float, share: float | None) -> Hit:
    return Hit(record.id, score, share, record.modality, record.path, record.text, record.metadata, record.preview)
