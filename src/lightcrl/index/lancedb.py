"""The engine `lancedb`: vectors in a LanceDB table on disk or in an object store, with an approximate index.

Every change of the table makes a version; the token holds the version that counts. A writer that finds a later one,
left by a killed writer, first restores the table. Candidates are scored again from their vectors, as in the exact
engine, so the approximation may miss an item but never gives a wrong score.

The column is float32 for float16 vectors too: LanceDB multiplies float16 one by one, and clusters ten times as long.
Tables of float16, made before, stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from math import isqrt
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa

from lightcrl.errors import MissingExtraError, StoreError, UnknownNameError
from lightcrl.index.base import Scope, Token

TABLE = "items"
KEPT = timedelta(hours=1)
"""Time for which former versions stay, for readers that have them open."""

NAMED = 20_000
"""Greatest number of item numbers in one statement."""

LISTED = 200_000
"""Greatest number of items that a search receives as a list; for more, it asks for more results and drops the rest."""

ROWS = 4096
"""Least number of items per partition, if the option `partitions` is not given. From a million items on, the number of
partitions grows with the square root of that of items: the time to build grows with the product of both."""

ROUNDS = 10
"""Number of rounds of the clustering into partitions; LanceDB's 50 take more than twice as long."""

PROBED = 3
"""Number of partitions of which a search reads one, at least `PROBES` of all, if the option `probes` is not given."""

PROBES = 20

BITS = 256
"""Least number of bits that represent a vector in an index `ivf_rq`."""

CANDIDATES = 200
"""Least number of candidates with exact scores: one bit per number leaves their order vague."""

FRESH = 0.2
"""Share of items outside the index above which it is made again."""

DEFAULTS: Mapping[str, Any] = {
    "uri": None,
    "index": "ivf_rq",
    "least": 20_000,
    "partitions": None,
    "probes": None,
    "ef": 200,
    "refine": 5,
}
KINDS: Mapping[str, str] = {
    "ivf_flat": "IvfFlat",
    "ivf_sq": "IvfSq",
    "ivf_pq": "IvfPq",
    "ivf_rq": "IvfRq",
    "ivf_hnsw_flat": "IvfHnswFlat",
    "ivf_hnsw_sq": "IvfHnswSq",
    "ivf_hnsw_pq": "IvfHnswPq",
}
"""LanceDB's classes of indexes by name."""


@final
class Lance:
    """Vectors in a LanceDB table.

    Attributes:
        options: `uri` of the database (below the index's folder by default), `index` (a member of `KINDS`), `least`
            (items from which an index is made) and `partitions` of the index; for a search `probes` (number of
            partitions searched), `ef` (HNSW's candidates) and `refine` (candidates with exact scores, times k).
    """

    def __init__(self, folder: Path, dim: int, dtype: str, options: Mapping[str, Any]) -> None:
        """Take the folder of the index.

        Raises:
            UnknownNameError: an option or the index is unknown.
            MissingExtraError: LanceDB is not installed.
        """
        for name in options:
            if name not in DEFAULTS:
                raise UnknownNameError("option of engine 'lancedb'", name, DEFAULTS)
        self.options: Mapping[str, Any] = {**DEFAULTS, **options}
        if self.options["index"] not in KINDS:
            raise UnknownNameError("index of engine 'lancedb'", str(self.options["index"]), KINDS)
        os.environ.setdefault("LANCEDB_LOG", "error")  # else it warns of intended behaviour
        try:
            import lancedb
        except ImportError as error:
            raise MissingExtraError("the engine 'lancedb'", "search") from error
        self._database = lancedb.connect(self.options["uri"] or str(folder / "lancedb"))
        self._dim = dim
        self._dtype = np.dtype(dtype)
        columns = [("number", pa.int64()), ("modality", pa.string()), ("vector", pa.list_(pa.float32(), dim))]
        self._schema = pa.schema(columns)

    def create(self) -> Token:
        table = self._database.create_table(TABLE, schema=self._schema, mode="overwrite")
        return {"version": table.version}

    def append(self, token: Token, numbers: np.ndarray, vectors: np.ndarray, modalities: Sequence[str]) -> Token:
        table = self._writable(token)
        value = table.schema.field("vector").type.value_type
        stored = vectors.astype(self._dtype).astype(value.to_pandas_dtype())
        rows = pa.FixedSizeListArray.from_arrays(pa.array(stored.ravel(), value), self._dim)
        table.add(pa.table([pa.array(numbers, pa.int64()), pa.array(modalities, pa.string()), rows], table.schema))
        return {"version": table.version}

    def remove(self, token: Token, numbers: np.ndarray) -> Token:
        table = self._writable(token)
        for condition in _conditions(numbers):
            table.delete(condition)
        return {"version": table.version}

    def settle(self, token: Token) -> Token:
        table = self._writable(token)
        table.optimize(cleanup_older_than=KEPT)
        if table.count_rows() >= self.options["least"] and _fresh(table) > FRESH:
            self._make_index(table)
        return {"version": table.version}

    def compact(self, token: Token, gone: np.ndarray) -> Token:
        table = self._writable(token)
        table.optimize(cleanup_older_than=KEPT)
        if table.count_rows() >= self.options["least"]:
            self._make_index(table)
        return {"version": table.version}

    def sweep(self, token: Token) -> None:
        return

    def open(self, token: Token, gone: np.ndarray) -> LanceView:
        table = self._database.open_table(TABLE)
        try:
            table.checkout(token["version"])
        except ValueError as error:
            raise FileNotFoundError(str(error)) from error
        return LanceView(table, self.options, self._dim)

    def _writable(self, token: Token) -> Any:
        """Return the table at the version that counts."""
        table = self._database.open_table(TABLE)
        if table.version != token["version"]:
            try:
                table.checkout(token["version"])
            except ValueError as error:
                raise StoreError(f"{self._database.uri}: {error} Build the index again.") from None
            table.restore()
        return table

    def _make_index(self, table: Any) -> None:
        from lancedb import index

        kind = getattr(index, KINDS[self.options["index"]])
        settings = {"num_partitions": _partitions(self.options, table.count_rows()), "max_iterations": ROUNDS}
        if self.options["index"] == "ivf_rq":  # one bit per number represents short vectors too coarsely
            settings["num_bits"] = min(8, -(-BITS // self._dim))
        table.create_index("vector", config=kind(distance_type="dot", **settings))
        table.create_index("number", config=index.BTree())
        table.create_index("modality", config=index.Bitmap())


@final
class LanceView:
    """One version of the table."""

    def __init__(self, table: Any, options: Mapping[str, Any], dim: int) -> None:
        self._table, self._options, self._dim = table, options, dim
        self._rows = int(table.count_rows())
        self._probes = options["probes"] or max(PROBES, _partitions(options, self._rows) // PROBED)

    def search(self, queries: np.ndarray, k: int, scope: Scope | None) -> tuple[np.ndarray, np.ndarray]:
        if self._rows == 0 or len(queries) == 0:
            return np.full((len(queries), 0), -1), np.zeros((len(queries), 0), np.float32)
        if scope is None:
            return self._nearest(queries, k, None)
        if scope.modality is not None:
            return self._nearest(queries, k, f"modality = {_text(scope.modality)}")
        numbers = scope.numbers()
        if len(numbers) <= LISTED:
            listed = ", ".join(map(str, numbers.tolist()))
            return self._nearest(queries, k, f"number IN ({listed})" if listed else "number < 0")
        wanted = k
        while True:
            wanted = min(self._rows, 2 * wanted * max(1, self._rows // len(numbers)))
            places, scores = self._nearest(queries, wanted, None)
            allowed = np.isin(places, numbers)
            if wanted == self._rows or (allowed.sum(1) >= min(k, len(numbers))).all():
                return _first(np.where(allowed, places, -1), np.where(allowed, scores, -np.inf), k)

    def vectors(self, numbers: np.ndarray) -> np.ndarray:
        rows = np.empty((len(numbers), self._dim), dtype=np.float32)
        order = np.argsort(numbers, kind="stable")
        ascending = numbers[order]
        for condition in _conditions(np.unique(numbers)):
            part = self._table.search().where(condition).select(["number", "vector"]).limit(NAMED).to_arrow()
            at, values = part["number"].to_numpy(), _matrix(part["vector"], self._dim)
            first, last = np.searchsorted(ascending, at), np.searchsorted(ascending, at, "right")
            for begin, end, value in zip(first.tolist(), last.tolist(), values, strict=True):
                rows[order[begin:end]] = value
        return rows

    def _nearest(self, queries: np.ndarray, k: int, condition: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers and scores [Q, k] of the nearest rows that fulfil a condition."""
        k = min(k, self._rows)
        wanted = list(queries.astype(np.float32))
        search = self._table.search(wanted if len(wanted) > 1 else wanted[0], vector_column_name="vector")
        refine = max(int(self._options["refine"]), -(-CANDIDATES // k))
        search = search.distance_type("dot").limit(k).refine_factor(refine)
        search = search.nprobes(self._probes).ef(max(int(self._options["ef"]), k * refine))
        if condition is not None:
            search = search.where(condition, prefilter=True)
        columns = ["number", "vector", "_distance"]
        part = search.select(columns if len(wanted) == 1 else ["query_index", *columns]).to_arrow()
        owners = part["query_index"].to_numpy() if len(wanted) > 1 else np.zeros(part.num_rows, np.int64)
        numbers, vectors = part["number"].to_numpy(), _matrix(part["vector"], self._dim)
        products = (vectors.astype(np.float64) * queries[owners].astype(np.float64)).sum(1).astype(np.float32)
        places, scores = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, np.float32)
        order = np.argsort(owners, kind="stable")
        column = np.arange(len(order)) - np.searchsorted(owners[order], owners[order])
        places[owners[order], column], scores[owners[order], column] = numbers[order], products[order]
        return _first(places, scores, k)


def _partitions(options: Mapping[str, Any], rows: int) -> int:
    """Return the number of partitions of the index; graphs need few."""
    usual = 1 + rows // 1_000_000 if "hnsw" in options["index"] else max(1, min(rows // ROWS, isqrt(rows) // 4))
    return int(options["partitions"] or usual)


def _first(places: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best of each row; of equal scores the lower number comes first."""
    order = np.lexsort((places, -scores), axis=1)[:, :k]
    return np.take_along_axis(places, order, 1), np.take_along_axis(scores, order, 1)


def _matrix(column: pa.ChunkedArray, dim: int) -> np.ndarray:
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    rows: np.ndarray = np.concatenate([np.zeros(0, np.float32), *flat]).astype(np.float32).reshape(-1, dim)
    return rows


def _conditions(numbers: np.ndarray) -> Iterator[str]:
    """Yield conditions that together name all of the numbers, at most `NAMED` each."""
    for start in range(0, len(numbers), NAMED):
        yield f"number IN ({', '.join(map(str, numbers[start : start + NAMED].tolist()))})"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _fresh(table: Any) -> float:
    """Return the share of rows outside the index of vectors; 1 if there is no index."""
    for index in table.list_indices():
        if "vector" in index.columns:
            outside, inside = int(index.num_unindexed_rows), int(index.num_indexed_rows)
            return outside / max(1, outside + inside)
    return 1.0
