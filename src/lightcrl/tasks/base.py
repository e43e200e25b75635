"""What a task of the paper is: prepared once, measured on one model at a time, item by item. And the table of tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from lightcrl.checkpoint import Checkpoint
from lightcrl.data import DataSpec
from lightcrl.encoders.base import Encoder
from lightcrl.events import Tell
from lightcrl.features import Features
from lightcrl.features.spec import FeaturesSpec
from lightcrl.registry import Table

EMBEDDING = "embedding"
"""The space of a task that measures a model in one space only."""

Outcome = Mapping[str, np.ndarray]
"""How a model fares, by space: numbers of every item, of which the task makes figures."""

Figures = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""From weights [S, N], how often each of N units was drawn, to values [S] by measure."""

TASKS: Table[type[Task]] = Table(
    "task of the paper",
    {
        "retrieval": "lightcrl.tasks.retrieval:RetrievalTask",
        "zero_shot": "lightcrl.tasks.zero_shot:ZeroShotTask",
        "linear_probe": "lightcrl.tasks.linear_probe:LinearProbeTask",
        "fine_tuning": "lightcrl.tasks.fine_tuning:FineTuningTask",
        "text_similarity": "lightcrl.tasks.text_similarity:TextSimilarityTask",
    },
)


class TaskSpec(BaseModel):
    """A `[tasks.<name>]` table: what every task has.

    Attributes:
        task: a member of `TASKS`.
        recipe: whose models are measured.
        published: the published table beside it; see published.json.
        title: above its table; its name by default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    PATHS: ClassVar[tuple[str, ...]] = ("data",)
    """Keys that hold paths, or ids on the hub."""

    task: str
    recipe: str
    published: str | None = None
    title: str = ""


@dataclass(frozen=True)
class Setting:
    """What the models to be measured are trained on and with.

    Attributes:
        data: where the groups come from.
        split: the split that the recipe's evaluation names.
        storage: where encoders' outputs are kept.
        features: of the data.
        encoders: by modality.
        tell: called with what happens.
    """

    data: DataSpec
    split: str
    storage: FeaturesSpec
    features: Features
    encoders: Mapping[str, Encoder]
    tell: Tell


class Task(ABC):
    """A task with its data encoded.

    Intervals draw `units` anew: items, pairs, or groups where items belong together. All models are measured on the
    same ones, so that their differences are paired.
    """

    Spec: ClassVar[type[TaskSpec]] = TaskSpec
    name: ClassVar[str]
    """Part of the names of files that keep outcomes: a literal, so that a renamed class finds them."""
    drawn: ClassVar[str] = "items"
    """What the units are."""

    units: int
    identity: Sequence[Any]
    """All that decides an outcome beside the model, as JSON values."""

    @classmethod
    @abstractmethod
    def prepare(cls, spec: Any, setting: Setting) -> Task:
        """Read the task's data and encode it.

        Raises:
            LightCRLError: whatever the data or the modalities do not allow.
        """

    @abstractmethod
    def measure(self, checkpoint: Checkpoint, folder: Path) -> Outcome:
        """How a model fares in its spaces; what is trained for it is kept in `folder`."""

    @abstractmethod
    def figures(self, space: str, found: np.ndarray) -> Figures:
        """What is said of an outcome in a space."""

    def as_they_come(self) -> Outcome:
        """How the encoders fare by themselves, where the task asks that."""
        return {}

    def rivals(self, space: str) -> tuple[str, ...]:
        """The encoders' own spaces that a model's space is held against."""
        return ()


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
