"""Reading an index: the last commit, opened once and kept until there is another; searches in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import numpy as np

from lightcrl.errors import QueryError, ShapeError, StoreError
from lightcrl.index.base import Engine, Hit, Record, Scope, View
from lightcrl.index.catalog import Catalog, State

ATTEMPTS = 5
"""Times that a commit is opened anew because a newer one has replaced its files."""


@dataclass(frozen=True)
class Opened:
    """One commit of an index, as it is searched.

    Attributes:
        state: of the catalog.
        view: of the engine.
        scopes: numbers of the items by modality, as far as they were asked for.
    """

    state: State
    view: View
    scopes: dict[str, np.ndarray] = field(default_factory=dict)


@final
class Reader:
    """Searches in the last commit; any number of threads may ask at once."""

    def __init__(self, catalog: Catalog, engine: Engine, dim: int) -> None:
        self._catalog, self._engine, self._dim = catalog, engine, dim
        self._opened: Opened | None = None

    def opened(self) -> Opened:
        """The last commit.

        Raises:
            StoreError: its vectors are not there.
        """
        opened = self._opened
        if opened is not None and opened.state.generation == self._catalog.state().generation:
            return opened
        for _ in range(ATTEMPTS):
            state, gone = self._catalog.opened()
            try:
                opened = Opened(state, self._engine.open(state.token, gone))
            except FileNotFoundError:
                continue
            self._opened = opened
            return opened
        raise StoreError(f"{self._catalog.path.parent} lacks the vectors of its catalog. Build the index again.")

    def item(self, id: str) -> tuple[int, Record]:
        """Number and record of an item, by its id or the path of its file.

        Raises:
            QueryError: there is none.
        """
        named = self._catalog.named([id]).get(id) or self._catalog.at_path(str(Path(id).absolute()))
        if named is None:
            raise QueryError(f"no item {id!r} in {self._catalog.path.parent}; expected an id, or the path of a file.")
        return named

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """[N, d] float32 of items by id."""
        return self.opened().view.vectors(np.array([self.item(id)[0] for id in ids], dtype=np.int64))

    def search(self, queries: np.ndarray, k: int, where: str | None, modality: str | None) -> list[list[Hit]]:
        """The k items nearest to each query [Q, d], best first, without their shares.

        Raises:
            ShapeError: queries are of another width or not finite, or k is below 1.
            FilterError: the filter is none.
        """
        queries = np.asarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self._dim or k < 1 or not np.isfinite(queries).all():
            raise ShapeError(
                f"queries {list(queries.shape)}, the best {k}; expected finite ones [Q, {self._dim}], and at least the "
                "best 1."
            )
        opened = self.opened()
        numbers, scores = opened.view.search(queries, k, self._scope(opened, where, modality))
        records = self._catalog.records(np.unique(numbers[numbers >= 0]))
        return [
            [
                _hit(records[number], score)
                for number, score in zip(row.tolist(), line.tolist(), strict=True)
                if number in records
            ]
            for row, line in zip(numbers, scores, strict=True)
        ]

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


def _hit(record: Record, score: float) -> Hit:
    return Hit(record.id, score, None, record.modality, record.path, record.text, record.metadata)
