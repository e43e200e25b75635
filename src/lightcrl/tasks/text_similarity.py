"""Text similarity on pairs from files: every text encoded once, every space of a model beside its raw encoders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from lightcrl.checkpoint import Checkpoint
from lightcrl.data import Dataset, Rejection
from lightcrl.data.base import text_item
from lightcrl.data.pairs import TextPairs, read_pairs
from lightcrl.encoders.base import Encoder
from lightcrl.errors import ModalityError
from lightcrl.events import Tell
from lightcrl.features import FeatureStore
from lightcrl.features.embed import embed_rows, own_rows
from lightcrl.features.extract import encode_modality
from lightcrl.features.spec import FeaturesSpec
from lightcrl.methods import Method
from lightcrl.metrics.result import Result
from lightcrl.metrics.similarity import CLASSES, calibrate, classification, correlation, cosines, evaluate, precisions
from lightcrl.tasks.base import Figures, Outcome, Setting, Task, TaskSpec

PART = 16_384
"""Pairs whose raw vectors are held at once."""
_WATCHED = re.compile(r"text_similarity/(aligned .+)/similar/precision")


@dataclass(frozen=True)
class TextSimilarity:
    """Pairs of texts, encoded and ready to score any method on.

    Spaces, for every text modality a, and every two of them a and b:

    - `raw a`: the encoder by itself (`Encoder.own_vectors`: what it was trained to give, else the mean of its last
      layer).
    - `aligned a-a`: both texts through a and the method.
    - `aligned a-b`: the mean of both crossings, the first text through a and the second through b, and the other way
      round, so that the order of a pair's texts does not matter.

    Attributes:
        pairs: measured on; those with a text that an encoder set aside are left out, as in `calibration`.
        calibration: what thresholds are calibrated on, each space's by itself; None for scores.
        stores: by modality, the features of every text.
        rows: by modality, rows [2, N + M] of both sides of the pairs and then of the calibration.
        raw: by modality, each encoder's own cosines [N + M].
        rejected: rows and texts set aside.
    """

    pairs: TextPairs
    calibration: TextPairs | None
    stores: Mapping[str, FeatureStore]
    rows: Mapping[str, np.ndarray]
    raw: Mapping[str, np.ndarray]
    rejected: tuple[Rejection, ...]

    @classmethod
    def prepare(
        cls,
        pairs: TextPairs,
        calibration: TextPairs | None,
        encoders: Mapping[str, Encoder],
        features: FeaturesSpec,
        tell: Tell = lambda event: None,
    ) -> TextSimilarity:
        """Encode every text once by each encoder of texts.

        Raises:
            ModalityError: no encoder is of texts.
            DataError: what encoders could read leaves one class alone.
        """
        texts = {modality: encoder for modality, encoder in encoders.items() if encoder.kind == "text"}
        if not texts:
            raise ModalityError(f"text similarity needs a modality of text; there are {', '.join(encoders) or 'none'}.")
        sides = [(*pairs.left, *(calibration.left if calibration else ()))]
        sides += [(*pairs.right, *(calibration.right if calibration else ()))]
        items = {item.key: item for side in sides for item in (text_item(text, text[:60]) for text in side)}
        keys = np.array([[text_item(text, "").key for text in side] for side in sides])
        links = np.stack([np.arange(len(items))] * 2, 1)
        rejected = [*pairs.rejected, *(calibration.rejected if calibration else ())]
        stores, rows = {}, {}
        for modality, encoder in texts.items():
            dataset = Dataset(list(items), ["test"] * len(items), {modality: list(items.values())}, {modality: links})
            done = encode_modality(encoder, dataset, modality, features, tell)
            rejected += done.rejected
            stores[modality] = done.store
            table = done.store.metadata()
            places = dict(zip(table["item"].to_pylist(), table["row"].to_pylist(), strict=True))
            rows[modality] = np.array([[places.get(key, -1) for key in side] for side in keys])
        whole = np.all([found >= 0 for found in rows.values()], axis=(0, 1))
        rows = {modality: found[:, whole] for modality, found in rows.items()}
        count = len(pairs)
        pairs = pairs.keep(whole[:count])
        pairs.check()
        if calibration is not None:
            calibration = calibration.keep(whole[count:])
            calibration.check()
        raw = {modality: _own_cosines(texts[modality], stores[modality], found) for modality, found in rows.items()}
        return cls(pairs, calibration, stores, rows, raw, tuple(rejected))

    def __call__(self, method: Method) -> Result:
        """Figures of every space."""
        found = self.similarities(method)
        count = len(self.pairs)
        thresholds = None
        if (calibration := self.calibration) is not None:
            thresholds = {space: calibrate(cosine[count:], calibration.truth) for space, cosine in found.items()}
        return evaluate({space: cosine[:count] for space, cosine in found.items()}, self.pairs.truth, thresholds)

    def watch(self, method: Method) -> dict[str, float]:
        """What the log of a training keeps: `text_similarity/space/class/precision` of every aligned space.

        Each space's threshold is calibrated anew, as in `__call__`. Of scores nothing is watched.
        """
        if (calibration := self.calibration) is None:
            return {}
        count, seen = len(self.pairs), {}
        for space, cosine in self.similarities(method).items():
            if space.startswith("aligned "):
                threshold = calibrate(cosine[count:], calibration.truth)
                found = precisions(cosine[:count], self.pairs.truth, threshold)
                seen.update({f"text_similarity/{space}/{name}": value for name, value in found.items()})
        return seen

    def similarities(self, method: Method) -> dict[str, np.ndarray]:
        """Cosines [N + M] by space: of the pairs, then of the calibration."""
        vectors = {}
        for modality, rows in self.rows.items():
            unique, place = np.unique(rows, return_inverse=True)
            embedded = embed_rows(method, self.stores[modality], modality, unique)
            vectors[modality] = [embedded[side] for side in place.reshape(rows.shape)]
        found = {f"aligned {name}-{name}": cosines(*sides) for name, sides in vectors.items()}
        for (a, (left, right)), (b, (other_left, other_right)) in combinations(vectors.items(), 2):
            found[f"aligned {a}-{b}"] = (cosines(left, other_right) + cosines(other_left, right)) / 2
        return found | {f"raw {name}": cosine for name, cosine in self.raw.items()}


def aligned_spaces(result: Result) -> dict[str, str | None]:
    """The aligned spaces of a result of `TextSimilarity`, each with that of its encoder alone; None for a crossing."""
    spaces = dict.fromkeys(name.partition("/")[0] for name in result.metrics)
    raw = [space.removeprefix("raw ") for space in spaces if space.startswith("raw ")]
    alone = {f"aligned {name}-{name}": f"raw {name}" for name in raw}
    return {space: alone.get(space) for space in spaces if space.startswith("aligned ")}


def watched(log: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """What `TextSimilarity.watch` has left in a log: by space, [E, 3] epochs done, precision of `CLASSES` in order."""
    found: dict[str, list[tuple[float, ...]]] = {}
    for event in log:
        for space in (match[1] for match in map(_WATCHED.fullmatch, event) if match):
            values = (event[f"text_similarity/{space}/{name}/precision"] for name, _ in CLASSES)
            found.setdefault(space, []).append((event["epoch"], *values))
    return {space: np.array(rows, dtype=np.float64) for space, rows in found.items()}


def _own_cosines(encoder: Encoder, store: FeatureStore, rows: np.ndarray) -> np.ndarray:
    """[N] of rows [2, N], in parts: vectors of long lists of pairs would fill the memory."""
    parts = range(0, rows.shape[1], PART)
    return np.concatenate([cosines(*(own_rows(encoder, store, side[at : at + PART]) for side in rows)) for at in parts])


class PairsSpec(TaskSpec):
    """Pairs of texts with labels or scores.

    Attributes:
        data: the pairs, a table or a hub id.
        calibration: labelled pairs for thresholds; the train split of `data` by default.
        columns: `text1`, `text2`, `label` or `score` to column.
    """

    PATHS: ClassVar[tuple[str, ...]] = ("data", "calibration")

    data: str
    calibration: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class TextSimilarityTask(Task):
    """Accuracy, precision, recall and F1 of both classes, or correlations, in every space; the units are pairs.

    Attributes:
        prepared: the pairs, encoded.
    """

    Spec: ClassVar[type[TaskSpec]] = PairsSpec
    name: ClassVar[str] = "TextSimilarityTask"
    drawn: ClassVar[str] = "pairs"

    prepared: TextSimilarity
    units: int
    identity: Sequence[Any]

    @classmethod
    def prepare(cls, spec: PairsSpec, setting: Setting) -> TextSimilarityTask:
        """Encode every text by each encoder of texts."""
        pairs = read_pairs(spec.data, spec.calibration, spec.columns)
        prepared = TextSimilarity.prepare(*pairs, setting.encoders, setting.storage, setting.tell)
        stores = {modality: store.fingerprint for modality, store in sorted(prepared.stores.items())}
        rows = {modality: found.tolist() for modality, found in sorted(prepared.rows.items())}
        truths = [part.truth.tolist() for part in (prepared.pairs, prepared.calibration) if part is not None]
        return cls(prepared, len(prepared.pairs), [stores, rows, truths])

    def measure(self, checkpoint: Checkpoint, folder: Path) -> Outcome:
        """[N + M] cosines: of the pairs, then of the calibration."""
        found = self.prepared.similarities(checkpoint.method)
        return {space: cosines for space, cosines in found.items() if not space.startswith("raw ")}

    def as_they_come(self) -> Outcome:
        """The same of the encoders' own vectors."""
        return {f"raw {modality}": cosines for modality, cosines in self.prepared.raw.items()}

    def figures(self, space: str, found: np.ndarray) -> Figures:
        """Of classes at the threshold that the space's own calibration gives; or correlations."""
        pairs, calibration = self.prepared.pairs, self.prepared.calibration
        if calibration is None:
            return correlation(found, pairs.truth)
        threshold = calibrate(found[self.units :], calibration.truth)
        return classification(found[: self.units], pairs.truth, threshold)

    def rivals(self, space: str) -> tuple[str, ...]:
        """The encoder that a space is of; both of a crossing."""
        names = list(self.prepared.raw)
        pairs = {f"aligned {a}-{b}": dict.fromkeys((a, b)) for a in names for b in names}
        return tuple(f"raw {name}" for name in pairs.get(space, ()))
