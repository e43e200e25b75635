"""The linear probe on class folders: every file encoded once, models and the frozen-encoder baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from lightcrl.checkpoint import Checkpoint
from lightcrl.features.embed import own_rows
from lightcrl.metrics.probe import EPOCHS, blind, measure, summarise
from lightcrl.metrics.result import Result
from lightcrl.tasks.base import EMBEDDING, Figures, Outcome, Setting, shares
from lightcrl.tasks.class_folders import ClassItems, TrainTestSpec, TrainTestTask
from lightcrl.tasks.spec import TaskSpec


class LinearProbeSpec(TrainTestSpec):
    """Settings of a linear probe.

    Attributes:
        logistic: true to fit the logistic regression whose strength is chosen on a held-out part (CLIP's protocol).
        epochs: epochs of the paper's protocol after which test is measured, ascending.
    """

    logistic: bool = True
    epochs: tuple[int, ...] = Field(default=EPOCHS, min_length=1)


@dataclass(frozen=True)
class LinearProbeTask(TrainTestTask):
    """Accuracy on test of linear maps fitted on train, with the frozen-encoder baseline; the units are items of test.

    Attributes:
        train: fitted items.
        test: measured items, with classes numbered as in `train`.
        own: the encoder's own vectors of both (`Encoder.own_vectors`), [N, D] and [M, D].
        spec: settings.
    """

    Spec: ClassVar[type[TaskSpec]] = LinearProbeSpec
    name: ClassVar[str] = "LinearProbeTask"
    by_model: ClassVar[bool] = True

    train: ClassItems
    test: ClassItems
    own: tuple[Tensor, Tensor]
    spec: LinearProbeSpec

    @classmethod
    def prepare(cls, spec: LinearProbeSpec, setting: Setting) -> LinearProbeTask:
        """Encode both folders; see `TrainTestSpec.encode`."""
        train, test, encoder = spec.encode(setting)
        own = (own_rows(encoder, train.store, train.rows), own_rows(encoder, test.store, test.rows))
        return cls(train, test, own, spec)

    @property
    def identity(self) -> Sequence[Any]:  # type: ignore[override]
        """Items and labels of both parts, and the measured epochs."""
        return [*self.parts, self.spec.epochs, self.spec.logistic]

    @property
    def headlines(self) -> Sequence[tuple[str, str]]:
        """Accuracy of the logistic regression, or after the last epoch."""
        return ((EMBEDDING, self._measures[0] if self.spec.logistic else self._measures[-1]),)

    def measure(self, checkpoint: Checkpoint, folder: Path | None = None) -> Outcome:
        """Return the probability that an item of test is right, [E, N], by measure."""
        return self._fit(EMBEDDING, self.train.vectors(checkpoint.method), self.test.vectors(checkpoint.method))

    def baseline(self) -> Outcome:
        """Fit the same probes on the encoder's own vectors."""
        return self._fit(self._raw, *self.own)

    def figures(self, space: str, outcome: np.ndarray) -> Figures:
        """`top1` and `epochN/top1`."""
        return shares(self._measures, outcome, np.ones((1, self.units)))

    def result(self, outcome: Outcome) -> Result:
        """`space/top1` and `space/epochN/top1` with intervals over items of test."""
        hit = {space: dict(zip(self._measures, rows, strict=True)) for space, rows in outcome.items.items()}
        return summarise(hit, self.train.labels, self.test.labels, outcome.chosen)

    def chance(self, space: str, measure: str) -> float:
        """The share in test of the most frequent class of train."""
        return blind(self.train.labels, self.test.labels)

    def rivals(self, space: str) -> tuple[str, ...]:
        """Return the frozen encoder's space."""
        return (self._raw,)

    def _fit(self, space: str, train: Tensor, test: Tensor) -> Outcome:
        epochs, logistic = self.spec.epochs, self.spec.logistic
        hit, strength = measure(train, self.train.labels, test, self.test.labels, epochs=epochs, logistic=logistic)
        return Outcome({space: np.stack(list(hit.values()))}, {} if strength is None else {space: strength})

    @property
    def _measures(self) -> tuple[str, ...]:
        return (*["top1"] * self.spec.logistic, *(f"epoch{epoch}/top1" for epoch in self.spec.epochs))

    @property
    def _raw(self) -> str:
        return f"raw {self.train.modality}"
