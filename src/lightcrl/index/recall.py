"""Recall of a stream of queries against an index; neither the queries nor the vectors are held in memory.

Queries are the items of rows (`lightcrl.data`), read batch by batch. The right answers of a query are the other items
of its group that the index holds, identified by their content. A query's figures need its first hits alone, and as many
more as tie with them; so they are those of `metrics.ranks`, and with an approximate engine those of its searches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, final

import numpy as np

from lightcrl.data import DataSpec, Item, Rejection, Row, open_sources
from lightcrl.data.joins import open_joins
from lightcrl.embedder import Embedder
from lightcrl.errors import EmptyDatasetError, HeadError
from lightcrl.files.local import file_digest
from lightcrl.index.catalog import NAME, Catalog
from lightcrl.index.index import Index
from lightcrl.index.manifest import load_engine
from lightcrl.index.reading import Reader
from lightcrl.metrics.ranks import listed_ranks
from lightcrl.metrics.retrieval import KS, summarise
from lightcrl.tasks.evaluate import Evaluation
from lightcrl.tasks.retrieval import RetrievalSpec, RetrievalTask, data_spec
from lightcrl.tasks.spec import make_task_spec

DEPTHS = (*KS, 50, 100)
"""Values K of R@K, as far as the gallery has as many items."""

BATCH = 1024
"""Number of items that are read, encoded and searched for at a time."""

SPARE = 16
"""Number of hits beyond the last K that are searched at first, to see where its tie ends."""

Group = Mapping[str, Sequence[Item]]
"""The items of a group by modality."""


def measure_recall(
    index: Index, rows: Iterable[Row | Rejection], *, ks: Sequence[int] = DEPTHS, where: str | None = None
) -> Evaluation:
    """Return recall of every direction in which rows have a query and the index has one of its answers.

    Consecutive rows of one key are one group. Queries without an answer in the index are counted, and left out.

    Args:
        index: the index; its model encodes the queries.
        rows: rows of a source.
        ks: values K of R@K.
        where: filter of the items to search.

    Raises:
        EmptyDatasetError: the index has no answer to any query.
        FilterError: the filter is invalid.
    """
    measured = _Measured(index, ks, where)
    for batch in _batches(_groups(rows, measured.rejected)):
        measured.add(batch)
    return measured.evaluation()


def evaluate_index(place: Path | str, embedder: Embedder, settings: Mapping[str, Any]) -> Evaluation:
    """Measure retrieval in the index at `place`: settings of the task `retrieval`, and `where` for `measure_recall`.

    Raises:
        HeadError: hits are to be reordered, which needs tokens that an index lacks.
        LightCRLError: see `measure_recall`, and the sources of `lightcrl.data`.
    """
    where = settings.get("where")
    spec = make_task_spec("retrieval", {name: value for name, value in settings.items() if name != "where"})
    assert isinstance(spec, RetrievalSpec)
    if spec.rerank:
        raise HeadError("rerank needs the tokens of the gallery; expected no rerank with an index. Leave one out.")
    recipe = embedder.checkpoint.recipe
    trained_on = DataSpec.model_validate(recipe["data"]) if "data" in recipe else None
    kinds = {name: embedder.modalities[name] for name in RetrievalTask.modalities(spec, embedder.modalities)}
    return measure_recall(Index.open(place, embedder), _read(data_spec(spec, trained_on), kinds), where=where)


def _read(spec: DataSpec, kinds: Mapping[str, str]) -> Iterator[Row | Rejection]:
    joins = open_joins(spec, kinds)
    for _, source in open_sources(joins.spec, joins.kinds):
        yield from joins.rows(source.rows())


def _groups(rows: Iterable[Row | Rejection], rejected: list[Rejection]) -> Iterator[Group]:
    """Yield the groups of consecutive rows of one key, each item once; append the rejections to `rejected`."""

    def readable() -> Iterator[Row]:
        for row in rows:
            if isinstance(row, Row):
                yield row
            else:
                rejected.append(row)

    for _, members in groupby(readable(), key=lambda row: row.key):
        cells: dict[str, dict[str, Item]] = {}
        for row in members:
            for modality, items in row.cells.items():
                cells.setdefault(modality, {}).update((item.key, item) for item in items)
        yield {modality: list(items.values()) for modality, items in cells.items()}


def _batches(groups: Iterable[Group]) -> Iterator[list[Group]]:
    """Yield groups until they have `BATCH` items together, then the next ones."""
    batch: list[Group] = []
    count = 0
    for group in groups:
        batch.append(group)
        count += sum(map(len, group.values()))
        if count >= BATCH:
            yield batch
            batch, count = [], 0
    yield batch


@final
class _Measured:
    """The ranks of all queries so far."""

    def __init__(self, index: Index, ks: Sequence[int], where: str | None) -> None:
        self._index, self._where, self.rejected = index, where, list[Rejection]()
        self._catalog = Catalog(index.folder / NAME)
        self._reader = Reader(self._catalog, load_engine(index.folder, index.manifest), index.dim)
        self._sizes = self._reader.counts(where)
        self._ks = {name: [k for k in ks if k <= size] for name, size in self._sizes.items()}
        self._allowed = None if where is None else self._catalog.numbers(where=where)
        self._ranks: dict[tuple[str, str], list[np.ndarray]] = {}
        self._groups, self._unanswered = 0, dict[tuple[str, str], int]()

    def add(self, groups: Sequence[Group]) -> None:
        """Encode the queries of some groups, search the index, and rank their answers."""
        answers = self._answers(groups)
        for asking in sorted({modality for group in groups for modality in group}):
            others = [name for name in answers if name != asking and self._ks[name]]
            queries = [(place, item) for place, group in enumerate(groups) for item in group.get(asking, ())]
            useful = [(place, item) for place, item in queries if any(answers[name][place] for name in others)]
            vectors = np.zeros((0, self._index.dim), np.float32)
            if useful:  # an encoder is not loaded in vain
                vectors, rejected = self._index.embedder.encode_some([item for _, item in useful], asking)
                self.rejected += rejected
            whole = ~np.isnan(vectors).any(1)
            for searched in others:
                right = [sorted(answers[searched][place]) for place, _ in useful]
                asked = [number for number in np.flatnonzero(whole).tolist() if right[number]]
                direction, chosen = (asking, searched), [right[number] for number in asked]
                self._unanswered[direction] = self._unanswered.get(direction, 0) + len(queries) - len(asked)
                if asked:
                    owners = [self._groups + useful[number][0] for number in asked]
                    counts = self._count(vectors[asked], chosen, searched)
                    ranks = np.column_stack([counts, owners, [len(some) for some in chosen]])
                    self._ranks.setdefault(direction, []).append(ranks)
        self._groups += len(groups)

    def evaluation(self) -> Evaluation:
        """Return the figures of all queries."""
        ranks = {f"{a}_to_{b}": np.concatenate(parts) for (a, b), parts in sorted(self._ranks.items())}
        if not ranks:
            raise EmptyDatasetError(
                f"{self._index.folder} holds no answer to any query of the data; expected items of its groups, of the "
                "same content, in another modality than the query's. Add them to the index, or check the columns."
            )
        searched = {f"{a}_to_{b}": b for a, b in self._ranks}
        result = summarise(
            {name: (rows[:, :3], rows[:, 3]) for name, rows in ranks.items()},
            {name: rows[:, 4] for name, rows in ranks.items()},
            {name: self._sizes[searched[name]] for name in ranks},
            {name: self._ks[searched[name]] for name in ranks},
            medians=False,
        )
        unanswered = {f"{a}_to_{b}/unanswered": self._unanswered[a, b] for a, b in sorted(self._ranks)}
        counts = result.counts | {name: count for name, count in unanswered.items() if count}
        return Evaluation(replace(result, counts=counts), tuple(self.rejected))

    def _answers(self, groups: Sequence[Group]) -> dict[str, list[set[int]]]:
        """Return the numbers of the index's items with the content of an item of each group, by modality."""
        owners: dict[tuple[str, str], set[int]] = {}
        for place, group in enumerate(groups):
            for modality in group.keys() & self._sizes.keys():
                for item in group[modality]:
                    # Files of a folder are known by their content, those of a run's features by their key.
                    owners.setdefault((modality, item.key), set()).add(place)
                    if isinstance(item.raw, Path):
                        owners.setdefault((modality, file_digest(item.raw)), set()).add(place)
        answers: dict[str, list[set[int]]] = {name: [set() for _ in groups] for name in self._sizes}
        for modality, kept in self._catalog.kept("digest", sorted({digest for _, digest in owners})):
            if self._allows(kept.number):
                for place in owners.get((modality, kept.digest), ()):
                    answers[modality][place].add(kept.number)
        return answers

    def _allows(self, number: int) -> bool:
        """Return true if the filter selects an item."""
        if self._allowed is None:
            return True
        place = int(np.searchsorted(self._allowed, number))
        return place < len(self._allowed) and int(self._allowed[place]) == number

    def _count(self, vectors: np.ndarray, right: Sequence[Sequence[int]], searched: str) -> np.ndarray:
        """Return `ranks`' counts [Q, 3] of queries [Q, d] with the numbers of their right items."""
        most, size = self._ks[searched][-1], self._sizes[searched]
        counts, left, k = np.zeros((len(vectors), 3), np.int64), np.arange(len(vectors)), most + SPARE
        while len(left):
            numbers, scores = self._reader.nearest(vectors[left], k, self._where, searched)
            hit = np.stack([np.isin(row, right[place]) for row, place in zip(numbers, left.tolist(), strict=True)])
            ranks, exact = listed_ranks(scores, hit, most)
            exact |= k >= size
            counts[left[exact]] = ranks[exact]
            left, k = left[~exact], 2 * k
        return counts
