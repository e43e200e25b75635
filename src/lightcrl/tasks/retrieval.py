"""Retrieval between all modalities of a data set that no model has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from lightcrl.checkpoint import Checkpoint
from lightcrl.data import Dataset, DataSpec, Rejection, load_dataset
from lightcrl.encoders.base import Encoder
from lightcrl.events import Tell
from lightcrl.features import Features
from lightcrl.features.embed import embed_split
from lightcrl.features.extract import encode_modality
from lightcrl.features.spec import FeaturesSpec
from lightcrl.methods import Method
from lightcrl.metrics.result import Result
from lightcrl.metrics.retrieval import Retrieval
from lightcrl.specs import parse
from lightcrl.tasks.base import Figures, Outcome, Setting, Task, TaskSpec, shares


def retrieval_on(
    method: Method,
    encoders: Mapping[str, Encoder],
    data: DataSpec,
    features: FeaturesSpec,
    tell: Tell = lambda event: None,
) -> tuple[Result, list[Rejection]]:
    """Retrieval on a data set that the model has never seen; all its groups are taken, whatever their split.

    Raises:
        DataError: the data cannot be used.
        EmptyDatasetError: no group has items of two modalities.
    """
    opened, rejected = encode_groups(encoders, data, features, tell)
    vectors, links = embed_split(method, opened, opened.split("test"))
    retrieval = Retrieval(links)
    return replace(retrieval(vectors), curves=retrieval.curves(vectors)), rejected


def encode_groups(
    encoders: Mapping[str, Encoder], data: DataSpec, features: FeaturesSpec, tell: Tell = lambda event: None
) -> tuple[Features, list[Rejection]]:
    """All groups of a data set, encoded, in one split `test`; and what was set aside.

    Raises:
        DataError: the data cannot be used.
    """
    dataset = load_dataset(data, {modality: encoder.kind for modality, encoder in encoders.items()})
    dataset = Dataset(dataset.groups, ["test"] * len(dataset.groups), dataset.items, dataset.links, dataset.rejected)
    rejected = list(dataset.rejected)
    stores = {}
    for modality, encoder in encoders.items():
        done = encode_modality(encoder, dataset, modality, features, tell, max_rejected=data.max_rejected)
        stores[modality] = done.store
        rejected += done.rejected
    return Features(stores), rejected


class RetrievalSpec(TaskSpec):
    """Retrieval in every direction.

    Attributes:
        data: groups that no model has seen; by default the split that the recipe's evaluation names.
        source: of that data, a member of `lightcrl.data.SOURCES`.
        columns: modality to column; the recipe's by default.
        key: column whose equal values make rows one group; the recipe's by default, where the columns are its own.
        ks: precision is of the first k, as far as the gallery has so many.
    """

    data: str | None = None
    source: str = "table"
    columns: dict[str, str] = Field(default_factory=dict)
    key: str | None = None
    ks: tuple[int, ...] = Field(default=(1, 5, 10, 50, 100, 500), min_length=1)


@dataclass(frozen=True)
class RetrievalTask(Task):
    """Precision over the first k, by direction; the units are groups.

    Attributes:
        features: of the data.
        split: which of its splits.
        ks: ascending.
    """

    Spec: ClassVar[type[TaskSpec]] = RetrievalSpec
    name: ClassVar[str] = "RetrievalTask"
    drawn: ClassVar[str] = "groups"

    features: Features
    split: str
    ks: tuple[int, ...]
    units: int
    identity: Sequence[Any]

    @classmethod
    def prepare(cls, spec: RetrievalSpec, setting: Setting) -> RetrievalTask:
        """Encode the data, or take the recipe's."""
        features, split = setting.features, setting.split
        if spec.data is not None:
            known = setting.data
            given = {
                "source": spec.source,
                "path": spec.data,
                "columns": spec.columns or known.columns,
                "key": spec.key if spec.columns else spec.key or known.key,
                "dev_fraction": 0.0,
            }
            data = parse(DataSpec, given, "data")
            features, _ = encode_groups(setting.encoders, data, setting.storage, setting.tell)
            split = "test"
        ks = tuple(sorted(set(spec.ks)))
        stores = sorted(store.fingerprint for store in features.stores.values())
        return cls(features, split, ks, len(features.split(split)), [stores, split, ks])

    def measure(self, checkpoint: Checkpoint, folder: Path) -> Outcome:
        """By direction, [K + 1, G]: sums over each group's queries, and how many queries it has."""
        vectors, links = embed_split(checkpoint.method, self.features, self.features.split(self.split))
        found = {}
        for name, (precision, groups) in Retrieval(links).precision_per_query(vectors, self.ks).items():
            columns = np.concatenate([precision, np.ones((len(precision), 1))], 1)
            found[name] = np.stack([np.bincount(groups, column, self.units) for column in columns.T])
        return found

    def figures(self, space: str, found: np.ndarray) -> Figures:
        """`precision@K`."""
        return shares([f"precision@{k}" for k in self.ks[: len(found) - 1]], found[:-1], found[-1:])
