"""The protocol of a task: settings, data prepared once, a measurement of a model item by item, and its figures.

`lightcrl run`, `evaluate`, `compare` and `reproduce` use every task only through this class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lightcrl.checkpoint import Checkpoint
from lightcrl.data import DataSpec, Rejection
from lightcrl.encoders.base import Encoder
from lightcrl.events import Tell
from lightcrl.features import Features
from lightcrl.features.spec import FeaturesSpec
from lightcrl.methods import Method
from lightcrl.metrics.intervals import bootstrap_intervals, exact_at_ends
from lightcrl.metrics.result import Result
from lightcrl.tasks.spec import TASKS, TaskSpec

EMBEDDING = "embedding"
"""The space of a task with a single space."""

Figures = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""A function from weights [S, N], the number of times each of N units was drawn, to values [S] by measure."""


@dataclass(frozen=True)
class Outcome:
    """The results of a model, item by item.

    Attributes:
        items: numbers of every item by space, from which the task computes figures.
        chosen: setting that was chosen on other data by space, such as a probe's regularisation strength.
    """

    items: Mapping[str, np.ndarray]
    chosen: Mapping[str, float] = field(default_factory=dict)

    def renamed(self, space: str, name: str) -> Outcome:
        """Return the outcome with a space under another name."""
        items = {name if each == space else each: rows for each, rows in self.items.items()}
        return Outcome(items, {name if each == space else each: value for each, value in self.chosen.items()})

    def joined(self, other: Outcome) -> Outcome:
        """Return the spaces of both outcomes, these first."""
        return Outcome({**self.items, **other.items}, {**self.chosen, **other.chosen})


@dataclass(frozen=True)
class Setting:
    """The setting in which a task is prepared.

    Attributes:
        encoders: encoders by modality, as trained with the measured models.
        storage: folder and form of the feature stores.
        tell: callback for events.
        data: training data of the models, for columns and key; None if unknown.
        features: features of that data; None if unavailable.
        split: split of these features for a task without data of its own.
    """

    encoders: Mapping[str, Encoder]
    storage: FeaturesSpec
    tell: Tell = lambda event: None
    data: DataSpec | None = None
    features: Features | None = None
    split: str = "dev"

    def as_trained(self, checkpoint: Checkpoint, features: Features) -> Setting:
        """Return the setting with the encoders trained together with a checkpoint, and their features."""
        return replace(self, encoders=checkpoint.as_trained(self.encoders), features=features)


class Task(ABC):
    """A task with its data encoded.

    Intervals resample `units`: items, pairs, or groups if items belong together. All models are measured on the same
    units, so that their differences are paired.
    """

    Spec: ClassVar[type[TaskSpec]] = TaskSpec
    name: ClassVar[str]
    """Part of the names of outcome files: a literal, so that a renamed class still finds them."""
    drawn: ClassVar[str] = "items"
    """Name of the units."""
    by_model: ClassVar[bool] = False
    """True if figures have the model's label (`label/top1`), to distinguish it from the frozen-encoder baseline."""

    units: int
    identity: Sequence[Any]
    """All settings that determine an outcome, except the model, as JSON values."""
    rejected: Sequence[Rejection] = ()
    """Items and rows that were set aside while the data was read and encoded."""

    @classmethod
    def modalities(cls, spec: Any, kinds: Mapping[str, str]) -> Sequence[str]:
        """Return the modalities whose encoders the task needs; all by default.

        Args:
            spec: settings, of the class `Spec`.
            kinds: kind of item by modality of the model.

        Raises:
            ModalityError: the model lacks a modality that the task needs.
        """
        return tuple(kinds)

    @classmethod
    def check(cls, spec: Any, kinds: Mapping[str, str]) -> None:
        """Refuse impossible settings before anything is encoded; arguments as in `modalities`.

        Raises:
            LightCRLError: the data or the modalities are unsuitable.
        """
        cls.modalities(spec, kinds)

    @classmethod
    @abstractmethod
    def prepare(cls, spec: Any, setting: Setting) -> Task:
        """Read the task's data and encode it, once.

        Raises:
            LightCRLError: the data or the modalities are unsuitable.
        """

    @abstractmethod
    def measure(self, checkpoint: Checkpoint, folder: Path | None = None) -> Outcome:
        """Measure a model in its spaces; `folder` keeps models trained for the measurement, None keeps none."""

    @abstractmethod
    def figures(self, space: str, outcome: np.ndarray) -> Figures:
        """Return the figures of a space's outcome, for paired bootstraps."""

    def result(self, outcome: Outcome) -> Result:
        """Return all figures with their intervals, chance, counts and curves; by default those of `figures`."""
        result = Result({}, counts={self.drawn: self.units})
        for space, items in outcome.items.items():
            figures = self.figures(space, items)
            intervals = bootstrap_intervals(figures, self.units)
            for measure, value in figures(np.ones((1, self.units))).items():
                name = measure if space == EMBEDDING else f"{space}/{measure}"
                result.metrics[name], result.interval[name] = float(value[0]), intervals[measure]
                if (chance := self.chance(space, measure)) is not None:  # of a share
                    result.chance[name] = chance
                    result.interval[name] = exact_at_ends(intervals[measure], result.metrics[name], self.units)
        return result

    @property
    @abstractmethod
    def headlines(self) -> Sequence[tuple[str, str]]:
        """Space and measure of the figures that represent the task in a comparison."""

    def chance(self, space: str, measure: str) -> float | None:
        """Return the score of a random guess, if it is known."""
        return None

    def baseline(self) -> Outcome:
        """Measure the frozen encoders, if the task has this baseline."""
        return Outcome({})

    def rivals(self, space: str) -> tuple[str, ...]:
        """Return the spaces of the frozen-encoder baseline to which a model's space is compared."""
        return ()

    def watch(self, method: Method) -> dict[str, float]:
        """Return figures for the training log at every evaluation on dev; none by default. They decide nothing."""
        return {}

    def evaluate(self, models: Mapping[str, Checkpoint] | Checkpoint, folder: Path | None = None) -> Result:
        """Measure a model, or several by label, together with the frozen-encoder baseline."""
        if not isinstance(models, Mapping):
            models = {getattr(models, "name", EMBEDDING): models}
        outcome = Outcome({})
        for label, checkpoint in models.items():
            measured = self.measure(checkpoint, folder)
            outcome = outcome.joined(measured.renamed(EMBEDDING, label) if self.by_model else measured)
        # Baselines lead the tables of tasks that compare models.
        baseline = self.baseline()
        return self.result(baseline.joined(outcome) if self.by_model else outcome.joined(baseline))


def prepare_task(kind: str, spec: TaskSpec, setting: Setting) -> Task:
    """Prepare a task of `TASKS` with its encoders."""
    task = TASKS.load(kind)
    wanted = task.modalities(spec, {modality: encoder.kind for modality, encoder in setting.encoders.items()})
    return task.prepare(spec, replace(setting, encoders={name: setting.encoders[name] for name in wanted}))


def shares(names: Sequence[str], sums: np.ndarray, sizes: np.ndarray) -> Figures:
    """Return figures that are shares: hits [M, N] by measure and unit, divided by sizes [M, N] or [1, N].

    >>> figures = shares(["top1"], np.array([[1.0, 0.0]]), np.array([[1.0, 1.0]]))
    >>> figures(np.array([[1.0, 1.0], [2.0, 0.0]]))["top1"].tolist()
    [0.5, 1.0]
    """

    def figures(weights: np.ndarray) -> Mapping[str, np.ndarray]:
        values = (weights @ sums.T) / np.maximum(weights @ sizes.T, 1)
        return dict(zip(names, values.T, strict=True))

    return figures
