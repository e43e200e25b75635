"""The protocol of a task: settings, data prepared once, a model measured item by item, figures of that.

`lightcrl run`, `evaluate`, `compare` and `reproduce` use every task through this class alone.
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
from lightcrl.metrics.result import Result
from lightcrl.tasks.spec import TASKS, TaskSpec

EMBEDDING = "embedding"
"""The space of a task that measures a model in one space only."""

Figures = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""From weights [S, N], how often each of N units was drawn, to values [S] by measure."""


@dataclass(frozen=True)
class Outcome:
    """How a model fares, item by item.

    Attributes:
        items: by space, numbers of every item, of which the task makes figures.
        chosen: by space, a setting that was chosen on other data, such as a probe's regularisation strength.
    """

    items: Mapping[str, np.ndarray]
    chosen: Mapping[str, float] = field(default_factory=dict)

    def renamed(self, space: str, name: str) -> Outcome:
        """Return the outcome with one space under another name."""
        items = {name if each == space else each: rows for each, rows in self.items.items()}
        return Outcome(items, {name if each == space else each: value for each, value in self.chosen.items()})

    def joined(self, other: Outcome) -> Outcome:
        """Return the spaces of both outcomes, these first."""
        return Outcome({**self.items, **other.items}, {**self.chosen, **other.chosen})


@dataclass(frozen=True)
class Setting:
    """The surroundings in which a task is prepared.

    Attributes:
        encoders: encoders by modality, as trained with the models that will be measured.
        storage: folder and form of the feature stores.
        tell: callback for events.
        data: the data that the models are trained on, for columns and key; None where unknown.
        features: features of that data; None where they are not at hand.
        split: split of these features that a task without data of its own is measured on.
    """

    encoders: Mapping[str, Encoder]
    storage: FeaturesSpec
    tell: Tell = lambda event: None
    data: DataSpec | None = None
    features: Features | None = None
    split: str = "dev"

    def as_trained(self, checkpoint: Checkpoint, features: Features) -> Setting:
        """Return the setting with the encoders that were trained along with a checkpoint, and their features."""
        return replace(self, encoders=checkpoint.as_trained(self.encoders), features=features)


class Task(ABC):
    """A task with its data encoded.

    Intervals draw `units` anew: items, pairs, or groups where items belong together. All models are measured on the
    same units, so that their differences are paired.
    """

    Spec: ClassVar[type[TaskSpec]] = TaskSpec
    name: ClassVar[str]
    """Part of the names of files that keep outcomes: a literal, so that a renamed class finds them."""
    drawn: ClassVar[str] = "items"
    """Name of the units."""
    by_model: ClassVar[bool] = False
    """Whether figures carry the model's label (`label/top1`), because the frozen-encoder baseline stands beside it."""

    units: int
    identity: Sequence[Any]
    """All that decides an outcome beside the model, as JSON values."""
    rejected: Sequence[Rejection] = ()
    """What was set aside while the data was read and encoded."""

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
        """Refuse what can be refused before anything is encoded; arguments as in `modalities`.

        Raises:
            LightCRLError: whatever the data or the modalities do not allow.
        """
        cls.modalities(spec, kinds)

    @classmethod
    @abstractmethod
    def prepare(cls, spec: Any, setting: Setting) -> Task:
        """Read the task's data and encode it, once.

        Raises:
            LightCRLError: whatever the data or the modalities do not allow.
        """

    @abstractmethod
    def measure(self, checkpoint: Checkpoint, folder: Path | None = None) -> Outcome:
        """Measure a model in its spaces; `folder` keeps what is trained for it, None if there is no place."""

    @abstractmethod
    def figures(self, space: str, outcome: np.ndarray) -> Figures:
        """Return the figures of one space's outcome, for paired bootstraps."""

    @abstractmethod
    def result(self, outcome: Outcome) -> Result:
        """Return all figures with their intervals, chance, counts and curves."""

    @property
    @abstractmethod
    def headlines(self) -> Sequence[tuple[str, str]]:
        """Space and measure of the figures that stand for the task in a comparison."""

    def chance(self, space: str, measure: str) -> float | None:
        """Return what a blind guess scores, where that is known."""
        return None

    def baseline(self) -> Outcome:
        """Measure the frozen encoders by themselves, where the task asks that."""
        return Outcome({})

    def rivals(self, space: str) -> tuple[str, ...]:
        """Return the spaces of the frozen-encoder baseline that a model's space is held against."""
        return ()

    def watch(self, method: Method) -> dict[str, float]:
        """Return figures for the training log at every evaluation on dev; none by default. They decide nothing."""
        return {}

    def evaluate(self, models: Mapping[str, Checkpoint] | Checkpoint, folder: Path | None = None) -> Result:
        """Measure one model, or several by label, beside the frozen encoders."""
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
    """Prepare a task of `TASKS` with the encoders that it needs."""
    task = TASKS.load(kind)
    wanted = task.modalities(spec, {modality: encoder.kind for modality, encoder in setting.encoders.items()})
    return task.prepare(spec, replace(setting, encoders={name: setting.encoders[name] for name in wanted}))


def shares(names: Sequence[str], sums: np.ndarray, sizes: np.ndarray) -> Figures:
    """Figures that are shares: hits [M, N] of each measure and unit, and of how many [M, N] or [1, N].

    >>> figures = shares(["top1"], np.array([[1.0, 0.0]]), np.array([[1.0, 1.0]]))
    >>> figures(np.array([[1.0, 1.0], [2.0, 0.0]]))["top1"].tolist()
    [0.5, 1.0]
    """

    def figures(weights: np.ndarray) -> Mapping[str, np.ndarray]:
        values = (weights @ sums.T) / np.maximum(weights @ sizes.T, 1)
        return dict(zip(names, values.T, strict=True))

    return figures
