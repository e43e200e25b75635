"""Retrieval between all modalities, on held-out groups or on a split of the recipe's own data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from lightcrl.checkpoint import Checkpoint
from lightcrl.data import Dataset, DataSpec, Rejection, load_dataset
from lightcrl.data.spec import VectorsSpec
from lightcrl.errors import DataError, HeadError, ModalityError
from lightcrl.features import Features
from lightcrl.features.embed import embed_together, split_links
from lightcrl.features.extract import encode_each
from lightcrl.heads.matching import Matching, row_scorer
from lightcrl.metrics.intervals import curve_ks, hits
from lightcrl.metrics.reordering import Reordered
from lightcrl.metrics.result import Result
from lightcrl.metrics.retrieval import KS, Retrieval, curve
from lightcrl.specs import parse
from lightcrl.tasks.base import Figures, Outcome, Setting, Task, shares
from lightcrl.tasks.spec import TaskSpec

RANKS = 3
"""First columns of an outcome: the counts of `ranks.ranks`."""
HEAD = RANKS + 2
"""Columns before the answers among the first k: ranks, group, number of answers."""


class RetrievalSpec(TaskSpec):
    """Settings of retrieval in every direction.

    Attributes:
        data: held-out groups; by default the evaluation split of the recipe.
        source: source of that data, a member of `lightcrl.data.SOURCES`; `"auto"` is `table` for a file, the recipe's
            own for a folder, else `hub`.
        columns: column by modality, only for these modalities; the recipe's by default.
        vectors: files of vectors with ids, by modality, as in `[data]`.
        key: column of the group's name; by default the recipe's, if its columns are used.
        measures: recall (`recall@1`, `@5`, `@10`), precision over the first k, or both.
        ks: values k of precision, up to the size of the gallery.
        rerank: number of first hits that a head of the model reorders; 0 leaves them as they are.
        head: name of that head; directions between modalities that it does not read stay as they are.
    """

    data: str | None = None
    source: str = "auto"
    columns: dict[str, str] = Field(default_factory=dict)
    vectors: dict[str, VectorsSpec] = Field(default_factory=dict)
    key: str | None = None
    measures: tuple[Literal["recall", "precision"], ...] = Field(default=("recall", "precision"), min_length=1)
    ks: tuple[int, ...] = Field(default=(1, 5, 10, 50, 100, 500), min_length=1)
    rerank: int = Field(default=0, ge=0)
    head: str = "matching"

    @property
    def needs(self) -> str | None:
        """The name of the head, if hits are reordered."""
        return self.head if self.rerank else None


@dataclass(frozen=True)
class RetrievalTask(Task):
    """Recall and precision by direction; the units are groups.

    Attributes:
        features: features of the data.
        split: name of the split in `features`.
        retrieval: right answers of all queries.
        sizes: number of items by modality.
        spec: settings.
        rejected: rows and items set aside.
    """

    Spec: ClassVar[type[TaskSpec]] = RetrievalSpec
    name: ClassVar[str] = "RetrievalTask"
    drawn: ClassVar[str] = "groups"

    features: Features
    split: str
    retrieval: Retrieval
    sizes: Mapping[str, int]
    spec: RetrievalSpec
    rejected: tuple[Rejection, ...] = ()

    @classmethod
    def modalities(cls, spec: RetrievalSpec, kinds: Mapping[str, str]) -> Sequence[str]:
        """Return the modalities with given columns; all by default."""
        for modality in spec.columns:
            if modality not in kinds:
                raise ModalityError(f"no modality {modality!r}; there are {', '.join(kinds)}.")
        return tuple(spec.columns) or tuple(kinds)

    @classmethod
    def prepare(cls, spec: RetrievalSpec, setting: Setting) -> RetrievalTask:
        """Encode the data, or take the recipe's split."""
        if spec.data is not None:
            features, rejected = encode_groups(data_spec(spec, setting.data), setting)
            split = "test"
        elif setting.features is not None:
            features, rejected, split = setting.features, [], setting.split
        else:
            raise DataError("retrieval has no data; expected a table with files or texts outside the training data.")
        links = split_links(features.split(split))
        sizes = {modality: len(np.unique(each[:, 0])) for modality, each in links.items()}
        return cls(features, split, Retrieval(links), sizes, spec, tuple(rejected))

    @property
    def units(self) -> int:  # type: ignore[override]
        """Number of groups."""
        return len(self.features.split(self.split))

    @property
    def identity(self) -> Sequence[Any]:  # type: ignore[override]
        """Items, their split and the measures."""
        stores = sorted(store.fingerprint for store in self.features.stores.values())
        reordered = [self.spec.rerank, self.spec.head] if self.spec.rerank else []
        return [stores, self.split, self.spec.measures, self._ks, *reordered]

    @property
    def headlines(self) -> Sequence[tuple[str, str]]:
        """R@1 in every direction, or precision over the first."""
        measure = "recall@1" if "recall" in self.spec.measures else f"precision@{self._ks[0]}"
        return tuple((direction, measure) for direction in self.retrieval.directions)

    def measure(self, checkpoint: Checkpoint, folder: Path | None = None) -> Outcome:
        """Return, by direction, [Q, 5 + K]: counts of `ranks.ranks`, group, all answers, answers among the first k."""
        vectors, _ = embed_together(checkpoint.method, self.features, self.features.split(self.split))
        reordered = self._reordered(checkpoint, vectors) if self.spec.rerank else {}
        outcome = {}
        for direction, (counts, groups) in self.retrieval.per_query(vectors, together=True).items():
            again = reordered.get(direction)
            counts = counts if again is None else again.ranks(counts)
            outcome[direction] = np.column_stack([counts, groups, self.retrieval.answers(direction)])
            if "precision" in self.spec.measures:
                looks = self._looks(direction)
                within = self.retrieval.answers_within(vectors, direction, looks, again, together=True)
                outcome[direction] = np.column_stack([outcome[direction], within])
        return Outcome(outcome)

    def _reordered(self, checkpoint: Checkpoint, vectors: Mapping[str, Tensor]) -> dict[str, Reordered]:
        """Return the first hits, reordered by the head, of every direction between its modalities.

        Raises:
            HeadError: the model has no such head, or the head cannot score pairs or lacks its tokens.
        """
        head = checkpoint.head(self.spec.head)
        if not isinstance(head, Matching):
            raise HeadError(
                f"head {self.spec.head!r} is {type(head).__name__}, which scores no pairs; expected a head of kind "
                "'matching'."
            )
        scorer = row_scorer(head, self.features, self.split, vectors)
        names = set(head.modalities)
        return {
            direction: self.retrieval.reordered(vectors, direction, self.spec.rerank, scorer)
            for direction in self.retrieval.directions
            if set(self.retrieval.modalities(direction)) == names
        }

    def figures(self, space: str, outcome: np.ndarray) -> Figures:
        """Return `recall@K` and `precision@K`, means over queries."""
        columns: dict[str, np.ndarray] = {}
        if "recall" in self.spec.measures:
            columns |= {f"recall@{k}": hits(outcome[:, :RANKS], k) for k in KS}
        if "precision" in self.spec.measures:
            looks = self._looks(space)
            here = [k for k in self._ks if k in looks]
            columns |= {f"precision@{k}": outcome[:, HEAD + int(np.flatnonzero(looks == k)[0])] / k for k in here}
        groups = outcome[:, RANKS].astype(np.int64)
        sums = np.stack([np.bincount(groups, column, self.units) for column in columns.values()])
        sizes = np.bincount(groups, minlength=self.units)[None].astype(np.float64)
        return shares(list(columns), sums, sizes)

    def result(self, outcome: Outcome) -> Result:
        """Return recall, median rank and mean R@1 with intervals over groups; curves of precision and recall."""
        per_query = {
            direction: (rows[:, :RANKS].astype(np.int64), rows[:, RANKS].astype(np.int64))
            for direction, rows in outcome.items.items()
        }
        curves = {
            direction: self._curve(direction, rows) for direction, rows in outcome.items.items() if rows.shape[1] > HEAD
        }
        return replace(self.retrieval.result(per_query, self.sizes), curves=curves)

    def chance(self, space: str, measure: str) -> float:
        """Return the score of constant embeddings, with ties broken at random."""
        rows = np.zeros((len(self.retrieval.answers(space)), HEAD))
        answers, size = self.retrieval.answers(space), self.retrieval.gallery(space, self.sizes)
        what, k = measure.split("@")
        if what == "precision":
            return float((answers / size).mean())
        rows[:, 1], rows[:, 2] = size - answers, answers
        return float(hits(rows[:, :RANKS], int(k)).mean())

    def _curve(self, direction: str, rows: np.ndarray) -> dict[str, list[float]]:
        ks = curve_ks(self.retrieval.gallery(direction, self.sizes))
        places = HEAD + np.searchsorted(self._looks(direction), ks)
        # The rows must be contiguous as when they were counted: the order of summation decides the last bit.
        return curve(np.ascontiguousarray(rows[:, places]), rows[:, HEAD - 1], ks)

    @property
    def _ks(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.spec.ks)))

    def _looks(self, direction: str) -> np.ndarray:
        """Return the places at which answers are counted, [K]: those of the curve, and of the settings."""
        size = self.retrieval.gallery(direction, self.sizes)
        return np.union1d(curve_ks(size), [k for k in self._ks if k <= size]).astype(np.int64)


def encode_groups(data: DataSpec, setting: Setting) -> tuple[Features, list[Rejection]]:
    """Encode all groups of a data set in a single split `test`; return them and the rejections.

    Raises:
        DataError: the data is unusable.
    """
    dataset = load_dataset(data, {modality: encoder.kind for modality, encoder in setting.encoders.items()})
    dataset = Dataset(dataset.groups, ["test"] * len(dataset.groups), dataset.items, dataset.links, dataset.rejected)
    stores, rejected = encode_each(
        setting.encoders, dataset, setting.storage, setting.tell, max_rejected=data.max_rejected
    )
    return Features(stores), [*dataset.rejected, *rejected]


def data_spec(spec: RetrievalSpec, trained_on: DataSpec | None) -> DataSpec:
    """Return the data's spec, with the recipe's settings by default."""
    columns = spec.columns or (trained_on.columns if trained_on else {})
    key = spec.key
    # The recipe's key applies if its columns do, or if it is still a modality's own column.
    if key is None and trained_on and (not spec.columns or trained_on.key in columns.values()):
        key = trained_on.key
    source = _source(spec.data or "", trained_on) if spec.source == "auto" else spec.source
    table: dict[str, Any] = {"source": source, "path": spec.data, "columns": columns, "key": key, "dev_fraction": 0.0}
    table["vectors"] = {name: given.model_dump() for name, given in spec.vectors.items()}
    made: DataSpec = parse(DataSpec, table, "data")
    return made


def _source(data: str, trained_on: DataSpec | None) -> str:
    """Return the source that reads `data`: a table, the recipe's own kind of folder, or an id on the hub."""
    place = Path(data)
    if place.is_dir():
        return trained_on.source if trained_on else "table"
    return "table" if place.is_file() or place.suffix or place.is_absolute() else "hub"
