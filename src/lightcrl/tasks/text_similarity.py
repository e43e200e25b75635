"""Text similarity on pairs from files: every text encoded once, models and the frozen-encoder baselines."""

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
from lightcrl.features import FeatureStore
from lightcrl.features.base import rows_by_item
from lightcrl.features.embed import embed_rows, own_rows
from lightcrl.features.extract import encode_modality
from lightcrl.methods import Method
from lightcrl.metrics.result import Result
from lightcrl.metrics.similarity import CLASSES, calibrate, classification, correlation, cosines, evaluate, precisions
from lightcrl.tasks.base import Figures, Outcome, Setting, Task
from lightcrl.tasks.spec import TaskSpec

PART = 16_384
"""Number of pairs whose raw vectors are held at once."""
_WATCHED = re.compile(r"text_similarity/(aligned .+)/similar/precision")


class TextSimilaritySpec(TaskSpec):
    """Settings of text similarity: pairs with labels or scores, as `lightcrl.data.pairs` reads them.

    Attributes:
        data: a table, or the id of a data set on the hub.
        calibration: labelled pairs that thresholds are calibrated on; by default the train split of `data`.
        columns: column names of `text1`, `text2`, `label` or `score`, where they differ.
        watch: true to measure labelled pairs at every evaluation on dev too, which embeds all texts each time.
    """

    PATHS: ClassVar[tuple[str, ...]] = ("data", "calibration")

    data: str = Field(min_length=1)
    calibration: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    watch: bool = True


@dataclass(frozen=True)
class TextSimilarityTask(Task):
    """Accuracy, precision, recall and F1 of both classes, or correlations, in every space; the units are pairs.

    Spaces, for every text modality a, and every two of them a and b:

    - `raw a`: the frozen-encoder baseline (`Encoder.own_vectors`: the vector that the encoder was trained to give,
      otherwise the mean of its last layer).
    - `aligned a-a`: both texts through a and the method.
    - `aligned a-b`: the mean of both crossings, the first text through a and the second through b, and vice versa, so
      that the order of a pair's texts has no effect.

    Attributes:
        pairs: pairs to measure, without those with a text that an encoder set aside.
        calibration: pairs that calibrate thresholds, for each space separately; None for scores.
        stores: features of every text, by modality.
        rows: rows [2, N + M] of both sides of the pairs and then of the calibration, by modality.
        raw: each encoder's own cosines [N + M], by modality.
        spec: settings.
        rejected: rows and texts set aside.
    """

    Spec: ClassVar[type[TaskSpec]] = TextSimilaritySpec
    name: ClassVar[str] = "TextSimilarityTask"
    drawn: ClassVar[str] = "pairs"

    pairs: TextPairs
    calibration: TextPairs | None
    stores: Mapping[str, FeatureStore]
    rows: Mapping[str, np.ndarray]
    raw: Mapping[str, np.ndarray]
    spec: TextSimilaritySpec
    rejected: tuple[Rejection, ...] = ()

    @classmethod
    def modalities(cls, spec: TextSimilaritySpec, kinds: Mapping[str, str]) -> Sequence[str]:
        """Return all modalities of texts."""
        texts = tuple(modality for modality, kind in kinds.items() if kind == "text")
        if not texts:
            raise ModalityError(f"text similarity needs a modality of text; there are {', '.join(kinds) or 'none'}.")
        return texts

    @classmethod
    def check(cls, spec: TextSimilaritySpec, kinds: Mapping[str, str]) -> None:
        """Read the pairs."""
        cls.modalities(spec, kinds)
        read_pairs(spec.data, spec.calibration, spec.columns)

    @classmethod
    def prepare(cls, spec: TextSimilaritySpec, setting: Setting) -> TextSimilarityTask:
        """Read the pairs and encode every text once by each encoder of texts.

        Raises:
            ModalityError: no encoder is for texts.
            DataError: the readable pairs have only one class.
        """
        cls.modalities(spec, {modality: encoder.kind for modality, encoder in setting.encoders.items()})
        return cls.of(*read_pairs(spec.data, spec.calibration, spec.columns), spec, setting)

    @classmethod
    def of(
        cls, pairs: TextPairs, calibration: TextPairs | None, spec: TextSimilaritySpec, setting: Setting
    ) -> TextSimilarityTask:
        """Encode loaded pairs; errors as in `prepare`."""
        texts = {modality: encoder for modality, encoder in setting.encoders.items() if encoder.kind == "text"}
        sides = [(*pairs.left, *(calibration.left if calibration else ()))]
        sides += [(*pairs.right, *(calibration.right if calibration else ()))]
        items = {item.key: item for side in sides for item in (text_item(text, text[:60]) for text in side)}
        keys = np.array([[text_item(text, "").key for text in side] for side in sides])
        links = np.stack([np.arange(len(items))] * 2, 1)
        rejected = [*pairs.rejected, *(calibration.rejected if calibration else ())]
        stores, rows = {}, {}
        for modality, encoder in texts.items():
            dataset = Dataset(list(items), ["test"] * len(items), {modality: list(items.values())}, {modality: links})
            done = encode_modality(encoder, dataset, modality, setting.storage, setting.tell)
            rejected += done.rejected
            stores[modality] = done.store
            places = rows_by_item(done.store)
            rows[modality] = np.array([[places.get(key, -1) for key in side] for side in keys])
        whole = np.all([numbers >= 0 for numbers in rows.values()], axis=(0, 1))
        rows = {modality: numbers[:, whole] for modality, numbers in rows.items()}
        count = len(pairs)
        pairs = pairs.keep(whole[:count])
        pairs.check()
        if calibration is not None:
            calibration = calibration.keep(whole[count:])
            calibration.check()
        raw = {modality: _own_cosines(texts[modality], stores[modality], numbers) for modality, numbers in rows.items()}
        return cls(pairs, calibration, stores, rows, raw, spec, tuple(rejected))

    @property
    def units(self) -> int:  # type: ignore[override]
        """Number of pairs."""
        return len(self.pairs)

    @property
    def identity(self) -> Sequence[Any]:  # type: ignore[override]
        """Texts, their pairs and the truth."""
        stores = {modality: store.fingerprint for modality, store in sorted(self.stores.items())}
        rows = {modality: rows.tolist() for modality, rows in sorted(self.rows.items())}
        return [stores, rows, [part.truth.tolist() for part in (self.pairs, self.calibration) if part is not None]]

    @property
    def headlines(self) -> Sequence[tuple[str, str]]:
        """Accuracy, or Spearman's correlation, in every aligned space."""
        measure = "spearman" if self.calibration is None else "accuracy"
        names = list(self.rows)
        crossings = [f"aligned {a}-{b}" for a, b in combinations(names, 2)]
        return tuple((space, measure) for space in (*(f"aligned {name}-{name}" for name in names), *crossings))

    def measure(self, checkpoint: Checkpoint, folder: Path | None = None) -> Outcome:
        """Return cosines [N + M]: of the pairs, then of the calibration."""
        return Outcome(self.similarities(checkpoint.method))

    def baseline(self) -> Outcome:
        """Return the same cosines from the encoders' own vectors."""
        return Outcome({f"raw {modality}": cosines for modality, cosines in self.raw.items()})

    def figures(self, space: str, outcome: np.ndarray) -> Figures:
        """Return figures of both classes at the threshold calibrated in the space; or correlations."""
        pairs, calibration = self.pairs, self.calibration
        if calibration is None:
            return correlation(outcome, pairs.truth)
        return classification(outcome[: self.units], pairs.truth, calibrate(outcome[self.units :], calibration.truth))

    def result(self, outcome: Outcome) -> Result:
        """Return all figures of every space with intervals over pairs."""
        spaces, count, thresholds = outcome.items, self.units, None
        if (calibration := self.calibration) is not None:
            thresholds = {space: calibrate(cosine[count:], calibration.truth) for space, cosine in spaces.items()}
        return evaluate({space: cosine[:count] for space, cosine in spaces.items()}, self.pairs.truth, thresholds)

    def chance(self, space: str, measure: str) -> float | None:
        """Return the share of the larger class for accuracy, zero for correlations."""
        share = float(np.mean(self.pairs.truth))
        return 0.0 if self.calibration is None else max(share, 1 - share) if measure == "accuracy" else None

    def rivals(self, space: str) -> tuple[str, ...]:
        """Return the frozen encoder's space; those of both encoders for a crossing."""
        names = list(self.raw)
        pairs = {f"aligned {a}-{b}": dict.fromkeys((a, b)) for a in names for b in names}
        return tuple(f"raw {name}" for name in pairs.get(space, ()))

    def watch(self, method: Method) -> dict[str, float]:
        """Return figures for the training log: `text_similarity/space/class/precision` of every aligned space.

        Each space's threshold is calibrated again, as in `result`. Scored pairs are not watched.
        """
        if (calibration := self.calibration) is None or not self.spec.watch:
            return {}
        count, seen = len(self.pairs), {}
        for space, cosine in self.similarities(method).items():
            threshold = calibrate(cosine[count:], calibration.truth)
            precision = precisions(cosine[:count], self.pairs.truth, threshold)
            seen.update({f"text_similarity/{space}/{name}": value for name, value in precision.items()})
        return seen

    def similarities(self, method: Method) -> dict[str, np.ndarray]:
        """Return cosines [N + M] by aligned space: of the pairs, then of the calibration."""
        vectors = {}
        for modality, rows in self.rows.items():
            unique, place = np.unique(rows, return_inverse=True)
            embedded = embed_rows(method, self.stores[modality], modality, unique)
            vectors[modality] = [embedded[side] for side in place.reshape(rows.shape)]
        spaces = {f"aligned {name}-{name}": cosines(*sides) for name, sides in vectors.items()}
        for (a, (left, right)), (b, (other_left, other_right)) in combinations(vectors.items(), 2):
            spaces[f"aligned {a}-{b}"] = (cosines(left, other_right) + cosines(other_left, right)) / 2
        return spaces


def aligned_spaces(result: Result) -> dict[str, str | None]:
    """Return the aligned spaces of a result, each with the space of its frozen encoder; None for a crossing."""
    spaces = dict.fromkeys(name.partition("/")[0] for name in result.metrics)
    raw = [space.removeprefix("raw ") for space in spaces if space.startswith("raw ")]
    alone = {f"aligned {name}-{name}": f"raw {name}" for name in raw}
    return {space: alone.get(space) for space in spaces if space.startswith("aligned ")}


def watched(log: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return the logged figures of `TextSimilarityTask.watch`: [E, 3] epochs, precision of `CLASSES`, by space."""
    by_space: dict[str, list[tuple[float, ...]]] = {}
    for event in log:
        for space in (match[1] for match in map(_WATCHED.fullmatch, event) if match):
            values = (event[f"text_similarity/{space}/{name}/precision"] for name, _ in CLASSES)
            by_space.setdefault(space, []).append((event["epoch"], *values))
    return {space: np.array(rows, dtype=np.float64) for space, rows in by_space.items()}


def _own_cosines(encoder: Encoder, store: FeatureStore, rows: np.ndarray) -> np.ndarray:
    """Return the cosines [N] of rows [2, N], in parts, since the vectors of many pairs would fill the memory."""
    parts = range(0, rows.shape[1], PART)
    return np.concatenate([cosines(*(own_rows(encoder, store, side[at : at + PART]) for side in rows)) for at in parts])
