"""The tasks of the paper on a recipe's models: retrieval, zero-shot, linear probe, fine-tuning, pairs of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from lightcrl.checkpoint import Checkpoint
from lightcrl.data import DataSpec
from lightcrl.data.classes import class_folders
from lightcrl.data.pairs import read_pairs
from lightcrl.features import Features
from lightcrl.features.embed import embed_split
from lightcrl.files.local import cache_folder
from lightcrl.metrics.intervals import hits
from lightcrl.metrics.probe import EPOCHS, by_epoch, centred, right
from lightcrl.metrics.retrieval import Retrieval
from lightcrl.metrics.similarity import calibrate, classification, correlation
from lightcrl.recipe import parse
from lightcrl.tasks.base import EMBEDDING, Figures, Outcome, Setting, Task, TaskSpec, shares
from lightcrl.tasks.class_folders import ClassFolders
from lightcrl.tasks.fine_tuning import POINTS, FineTuning, FineTuningSpec, looks, points
from lightcrl.tasks.linear_probe import LinearProbe
from lightcrl.tasks.raw import ZeroShot, encode_groups
from lightcrl.tasks.spec import ZeroShotSpec
from lightcrl.tasks.text_similarity import TextSimilarity

TOPS = (1, 2, 3, 4, 5)


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
        features, split = setting.features, setting.recipe.evaluation.split
        if spec.data is not None:
            known = setting.recipe.data
            given = {
                "source": spec.source,
                "path": spec.data,
                "columns": spec.columns or known.columns,
                "key": spec.key if spec.columns else spec.key or known.key,
                "dev_fraction": 0.0,
            }
            data = parse(DataSpec, given, "data")
            features, _ = encode_groups(setting.encoders, data, setting.recipe.features, setting.tell)
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


class FoldersSpec(TaskSpec):
    """What is done with class folders.

    Attributes:
        data: the folder, or the id of a labelled data set on the hub, which is written as class folders once.
        picture: that data set's column of pictures.
        label: its column of classes.
    """

    data: str
    picture: str = "image"
    label: str = "label"

    def folder(self) -> Path:
        """Where the class folders lie."""
        cache = cache_folder() / "classes"
        return class_folders(self.data, cache, picture=self.picture, label=self.label)


class ClassSpec(FoldersSpec):
    """Zero-shot classification of class folders.

    Attributes:
        split: folder of `data` to take, where it has one for each split.
        files: pattern of the names of files to take.
        templates: prompts with `{}` where the class name goes.
        modality: whose items the folder holds; by default the first that is not text.
    """

    split: str | None = None
    files: str = "*"
    templates: tuple[str, ...] | None = None
    modality: str | None = None


@dataclass(frozen=True)
class ZeroShotTask(Task):
    """Top-1 to top-5 accuracy; the units are items.

    Attributes:
        prepared: items and prompts.
    """

    Spec: ClassVar[type[TaskSpec]] = ClassSpec
    name: ClassVar[str] = "ZeroShotTask"

    prepared: ZeroShot
    units: int
    identity: Sequence[Any]

    @classmethod
    def prepare(cls, spec: ClassSpec, setting: Setting) -> ZeroShotTask:
        """Encode the folder and the prompts."""
        given = {key: getattr(spec, key) for key in ("files", "templates", "modality")}
        wanted = parse(ZeroShotSpec, {"data": str(spec.folder() / (spec.split or "")), **given})
        prepared = ZeroShot.prepare(wanted, setting.encoders, setting.recipe.features, setting.tell)
        items = prepared.items
        prompts = [prepared.classes, wanted.templates, setting.encoders[prepared.text].fingerprint]
        return cls(prepared, len(items.labels), [items.store.fingerprint, items.labels.tolist(), *prompts])

    def measure(self, checkpoint: Checkpoint, folder: Path) -> Outcome:
        """[K, N] which items have the right class among the first k."""
        counts = self.prepared.per_item(checkpoint.method)
        return {EMBEDDING: np.stack([hits(counts, k) for k in self._tops])}

    def figures(self, space: str, found: np.ndarray) -> Figures:
        """`topK`."""
        return shares([f"top{k}" for k in self._tops], found, np.ones((1, self.units)))

    @property
    def _tops(self) -> tuple[int, ...]:
        return TOPS[: len(self.prepared.classes)]


class ProbeSpec(FoldersSpec):
    """A linear probe on class folders, by the paper's protocol: fitted on `data`, or on the folder `train` in it.

    Attributes:
        test: folder to measure on.
        files: pattern of the names of files to fit on.
        test_files: pattern of those to measure on.
        modality: whose items they are; by default the first that is not text.
        epochs: when to look, ascending.
    """

    PATHS: ClassVar[tuple[str, ...]] = ("data", "test")

    test: str | None = None
    files: str = "*"
    test_files: str | None = None
    modality: str | None = None
    epochs: tuple[int, ...] = Field(default=EPOCHS, min_length=1)

    def folders(self) -> ClassFolders:
        """Both parts."""
        return ClassFolders(str(self.folder()), self.test, self.files, self.test_files, self.modality)


@dataclass(frozen=True)
class LinearProbeTask(Task):
    """Accuracy after so many epochs, beside the encoder as it comes; the units are items of test.

    Attributes:
        probe: both folders, encoded.
        epochs: when to look.
    """

    Spec: ClassVar[type[TaskSpec]] = ProbeSpec
    name: ClassVar[str] = "LinearProbeTask"

    probe: LinearProbe
    epochs: tuple[int, ...]
    units: int
    identity: Sequence[Any]

    @classmethod
    def prepare(cls, spec: ProbeSpec, setting: Setting) -> LinearProbeTask:
        """Encode both folders."""
        probe = LinearProbe.prepare(spec.folders(), setting.encoders, setting.recipe.features, setting.tell)
        parts = [[part.store.fingerprint, part.labels.tolist()] for part in (probe.train, probe.test)]
        return cls(probe, spec.epochs, len(probe.test.labels), [*parts, spec.epochs])

    def measure(self, checkpoint: Checkpoint, folder: Path) -> Outcome:
        """[E, N] which items of test are right."""
        return {
            EMBEDDING: self._fit(
                self.probe.train.vectors(checkpoint.method), self.probe.test.vectors(checkpoint.method)
            )
        }

    def as_they_come(self) -> Outcome:
        """The same of the encoder's own vectors."""
        return {self._raw: self._fit(*self.probe.raw)}

    def figures(self, space: str, found: np.ndarray) -> Figures:
        """`epochN/top1`."""
        return shares([f"epoch{epoch}/top1" for epoch in self.epochs], found, np.ones((1, self.units)))

    def rivals(self, space: str) -> tuple[str, ...]:
        """The encoder itself."""
        return (self._raw,)

    @property
    def _raw(self) -> str:
        return f"raw {self.probe.train.modality}"

    def _fit(self, train: torch.Tensor, test: torch.Tensor) -> np.ndarray:
        goal, wanted = (torch.from_numpy(part.labels) for part in (self.probe.train, self.probe.test))
        vectors, unseen = centred(train, test)
        return np.stack(list(by_epoch(vectors, goal, unseen, wanted, self.epochs).values()))


class TuneSpec(ProbeSpec):
    """Fine-tuning on class folders; see `FineTuningSpec`.

    Attributes:
        training: settings of the classifier's training.
        tuning: how the encoder is trained; frozen without.
    """

    epochs: tuple[int, ...] = Field(default=EPOCHS, min_length=POINTS, max_length=POINTS)
    training: dict[str, Any] = Field(default_factory=dict)
    tuning: dict[str, Any] | None = None

    def settings(self) -> FineTuningSpec:
        """As fine-tuning takes them; `epochs` are fifths of them all.

        Raises:
            RecipeError: an unknown key, or a value of the wrong kind.
        """
        training = {"epochs": self.epochs[-1], **self.training}
        found: FineTuningSpec = parse(FineTuningSpec, {"training": training, "tuning": self.tuning})
        return found


@dataclass(frozen=True)
class FineTuningTask(Task):
    """Accuracy after each fifth of the epochs of fine-tuning; the units are items of test.

    Attributes:
        tuning: both folders, encoded.
        spec: how to fine-tune.
    """

    Spec: ClassVar[type[TaskSpec]] = TuneSpec
    name: ClassVar[str] = "FineTuningTask"

    tuning: FineTuning
    spec: FineTuningSpec
    units: int
    identity: Sequence[Any]

    @classmethod
    def prepare(cls, spec: TuneSpec, setting: Setting) -> FineTuningTask:
        """Encode both folders."""
        settings = spec.settings()
        tuning = FineTuning.prepare(spec.folders(), setting.encoders, setting.recipe.features, setting.tell)
        parts = [[part.store.fingerprint, part.labels.tolist()] for part in (tuning.train, tuning.test)]
        return cls(tuning, settings, len(tuning.test.labels), [*parts, settings.model_dump(mode="json")])

    def measure(self, checkpoint: Checkpoint, folder: Path) -> Outcome:
        """[5, N] which items of test are right."""
        place = folder / f"tuned-{self.tuning.identity(checkpoint, self.spec)[:10]}"
        self.tuning(checkpoint, self.spec, place)
        wanted = torch.from_numpy(self.tuning.test.labels)
        return {EMBEDDING: np.stack([right(logits, wanted) for logits in looks(place).values()])}

    def figures(self, space: str, found: np.ndarray) -> Figures:
        """`epochN/top1`."""
        epochs = points(int(self.spec.training.epochs))
        return shares([f"epoch{epoch}/top1" for epoch in epochs], found, np.ones((1, self.units)))


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
        prepared = TextSimilarity.prepare(*pairs, setting.encoders, setting.recipe.features, setting.tell)
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
