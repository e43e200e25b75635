"""Embeddings made by a prior beside the true ones, and beside the embeddings from which they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lightcrl.checkpoint import Checkpoint
from lightcrl.data import Rejection
from lightcrl.encoders.base import fingerprint
from lightcrl.errors import DataError, HeadError, ModalityError
from lightcrl.features import Features
from lightcrl.features.embed import embed_rows
from lightcrl.heads.base import other_modality
from lightcrl.heads.prior.head import Prior, choose, first_pairs
from lightcrl.metrics.generation import diversity, frechet_distance
from lightcrl.metrics.intervals import hits
from lightcrl.metrics.ranks import ranks
from lightcrl.metrics.result import Result
from lightcrl.metrics.retrieval import KS
from lightcrl.tasks.base import EMBEDDING, Figures, Outcome, Setting, Task, shares
from lightcrl.tasks.heads import load_head
from lightcrl.tasks.retrieval import RetrievalSpec, data_spec, encode_groups
from lightcrl.tasks.spec import TaskSpec

PRIOR = "prior"
BEFORE = "before"
MEASURES = ("cosine", *(f"recall@{k}" for k in KS), "diversity")
"""First columns of an outcome; then the vector and the true one."""


class PriorSpec(TaskSpec):
    """Settings of the measurement of a prior.

    Attributes:
        data: held-out groups; by default the evaluation split of the recipe.
        columns: column by modality; the recipe's by default.
        key: column of the group's name; by default the recipe's, if its columns are used.
        source: modality of the given items.
        target: modality of what is made of them; by default the first that is not `source`.
        head: name of the model's head; by default `prior`, or its only prior.
        guidances: strengths of guidance that are measured beside the head's own.
        draws: number of samples per item, from which the head chooses, and whose diversity is measured; the head's own
            by default, but two or more.
        seed: seed of the noise.
    """

    data: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    key: str | None = None
    source: str = "text"
    target: str | None = None
    head: str | None = None
    guidances: tuple[Annotated[float, Field(ge=0)], ...] = (0.0, 1.0, 1.5, 2.0, 3.0)
    draws: int | None = Field(default=None, ge=2)
    seed: int = Field(default=0, ge=0)

    @property
    def needs(self) -> str | None:
        """The name of the head."""
        return self.head or PRIOR


@dataclass(frozen=True)
class PriorTask(Task):
    """Cosine, recall, diversity, gap and Fréchet distance; the units are groups, the first item of each modality.

    Spaces:

    - `embedding`: what the prior makes of a group's item, the chosen one of its samples.
    - `before`: the item's own embedding.
    - `guidance W`: as `embedding`, with guidance W.

    Measures: `cosine` to the group's true embedding; `recall@K` as a query among all true embeddings; `diversity`, one
    minus the mean cosine of an item's samples; `gap`, the distance between the mean and the mean true embedding;
    `frechet`, the Fréchet distance to all true embeddings. The last two have no interval: resampling makes them larger.

    Attributes:
        features: features of the data.
        names: modalities of the given items and of what is made of them.
        pairs: rows of the first item of both, of each group, [G, 2].
        spec: settings.
        rejected: rows and items set aside.
    """

    Spec: ClassVar[type[TaskSpec]] = PriorSpec
    name: ClassVar[str] = "PriorTask"
    drawn: ClassVar[str] = "groups"
    headlines: ClassVar[Sequence[tuple[str, str]]] = ((EMBEDDING, "recall@1"), (BEFORE, "recall@1"))

    features: Features
    names: tuple[str, str]
    pairs: np.ndarray
    spec: PriorSpec
    rejected: tuple[Rejection, ...] = ()

    @classmethod
    def modalities(cls, spec: PriorSpec, kinds: Mapping[str, str]) -> Sequence[str]:
        """Return the modality of the given items, and that of what is made of them."""
        names = (spec.source, spec.target or other_modality(kinds, spec.source))
        for name in names:
            if name not in kinds or names[0] == names[1]:
                raise ModalityError(
                    f"a prior from {names[0]!r} to {names[1]!r}; this model has {', '.join(kinds)}. Name two of these "
                    "with source and target."
                )
        return names

    @classmethod
    def prepare(cls, spec: PriorSpec, setting: Setting) -> PriorTask:
        """Encode the data, or take the recipe's split.

        Raises:
            DataError: there is no data, or it has no pairs.
        """
        kinds = {name: encoder.kind for name, encoder in setting.encoders.items()}
        source, target = cls.modalities(spec, kinds)
        if spec.data is not None:
            asked = RetrievalSpec(data=spec.data, columns=spec.columns, key=spec.key)
            features, rejected = encode_groups(data_spec(asked, setting.data), setting)
            split = features.split("test")
        elif setting.features is not None:
            features, rejected, split = setting.features, [], setting.features.split(setting.split)
        else:
            raise DataError("the task has no data; expected a table of groups outside the training data (--data).")
        pairs = first_pairs(split, source, target)
        if len(pairs) < 2:
            raise DataError(f"{len(pairs)} groups with both {source!r} and {target!r}; expected two or more.")
        return cls(features, (source, target), pairs, spec, tuple(rejected))

    @property
    def units(self) -> int:  # type: ignore[override]
        """Number of groups with an item of both modalities."""
        return len(self.pairs)

    @property
    def identity(self) -> Sequence[Any]:  # type: ignore[override]
        """Items, their groups and the samples."""
        stores = sorted(store.fingerprint for store in self.features.stores.values())
        return [
            stores,
            fingerprint(self.pairs.tolist()),
            self.spec.head,
            self.spec.guidances,
            self.spec.draws,
            self.spec.seed,
        ]

    @torch.inference_mode()
    def measure(self, checkpoint: Checkpoint, folder: Path | None = None) -> Outcome:
        """Return, by space, [G, 5 + 2 d]: the measures, the vector and the true one.

        Raises:
            HeadError: the model has no prior between these modalities, or it makes features in place of embeddings.
        """
        head = load_head(checkpoint, PRIOR, Prior, "prior", self.spec.head)
        if head.modalities != self.names or head.options.slot is not None:
            what = " -> ".join(head.modalities) + ("" if head.options.slot is None else f", slot {head.options.slot}")
            raise HeadError(
                f"the prior makes {what}; expected {' -> '.join(self.names)}, embeddings. Name another head."
            )
        stores = [self.features.store(name) for name in self.names]
        given, truths = (
            embed_rows(checkpoint.method, store, name, rows).float()
            for store, name, rows in zip(stores, self.names, self.pairs.T, strict=True)
        )
        draws = self.spec.draws or max(2, head.options.draws)

        def drawn(guidance: float | None) -> np.ndarray:
            settings = {"draws": draws, "guidance": guidance, "seed": self.spec.seed}
            samples = head.generate_rows(stores[0], self.pairs[:, 0], given, **settings)
            return _columns(choose(samples, given), truths, diversity(samples.numpy()))

        outcome = {EMBEDDING: drawn(None), BEFORE: _columns(given, truths, np.zeros(len(given)))}
        for strength in self.spec.guidances if head.guided else ():
            outcome[f"guidance {strength:g}"] = drawn(strength)
        return Outcome(outcome)

    def figures(self, space: str, outcome: np.ndarray) -> Figures:
        """Return the means of the measures."""
        return shares(MEASURES, outcome[:, : len(MEASURES)].T, np.ones((1, len(outcome))))

    def result(self, outcome: Outcome) -> Result:
        """Return the figures with their intervals, and gaps and Fréchet distances without."""
        result = super().result(outcome)
        for space, items in outcome.items.items():
            made, truths = np.split(items[:, len(MEASURES) :], 2, 1)
            prefix = "" if space == EMBEDDING else f"{space}/"
            result.metrics[f"{prefix}gap"] = float(np.linalg.norm(made.mean(0) - truths.mean(0)))
            result.metrics[f"{prefix}frechet"] = frechet_distance(made, truths)
        return result

    def chance(self, space: str, measure: str) -> float | None:
        """Return the recall of a constant query."""
        name, _, k = measure.partition("@")
        return min(1.0, int(k) / self.units) if name == "recall" else None


def _columns(vectors: Tensor, truths: Tensor, spread: np.ndarray) -> np.ndarray:
    own = np.stack([np.arange(len(vectors))] * 2, 1)
    counts = ranks(vectors, truths, own)
    cosines = (vectors * truths).sum(1).numpy()
    return np.column_stack([cosines, *(hits(counts, k) for k in KS), spread, vectors.numpy(), truths.numpy()])
