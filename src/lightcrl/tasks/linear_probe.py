"""The linear probe on class folders: every file encoded once, every model of a run beside the raw encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lightcrl.checkpoint import Checkpoint
from lightcrl.encoders.base import Encoder
from lightcrl.events import Tell
from lightcrl.features.embed import own_rows
from lightcrl.features.spec import FeaturesSpec
from lightcrl.methods import Method
from lightcrl.metrics.probe import EPOCHS, by_epoch, centred, evaluate
from lightcrl.metrics.result import Result
from lightcrl.tasks.base import EMBEDDING, Figures, Outcome, Setting, Task, TaskSpec, shares
from lightcrl.tasks.class_folders import ClassFolders, ClassItems, FoldersSpec


@dataclass(frozen=True)
class LinearProbe:
    """Two sets of class folders, encoded and ready to probe any methods on.

    Spaces are `raw <modality>`, the encoder by itself (`Encoder.own_vectors`), and one for each method by its label.

    Attributes:
        train: what probes are fitted on.
        test: what they are measured on, classes numbered as in `train`.
        raw: the encoder's own vectors of both, [N, D] and [M, D].
    """

    train: ClassItems
    test: ClassItems
    raw: tuple[Tensor, Tensor]

    @classmethod
    def prepare(
        cls,
        folders: ClassFolders,
        encoders: Mapping[str, Encoder],
        features: FeaturesSpec,
        tell: Tell = lambda event: None,
    ) -> LinearProbe:
        """Read and encode the folders.

        Raises:
            DataError: as `ClassFolders.encode`.
            ModalityError: as there.
        """
        train, unseen, encoder = folders.encode(encoders, features, tell)
        raw = (own_rows(encoder, train.store, train.rows), own_rows(encoder, unseen.store, unseen.rows))
        return cls(train, unseen, raw)

    def __call__(self, methods: Mapping[str, Method]) -> Result:
        """Figures of every space; `methods` by label."""
        train, test = {f"raw {self.train.modality}": self.raw[0]}, {f"raw {self.train.modality}": self.raw[1]}
        for label, method in methods.items():
            train[label], test[label] = self.train.vectors(method), self.test.vectors(method)
        return evaluate(train, self.train.labels, test, self.test.labels)


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
        probe = LinearProbe.prepare(spec.folders(), setting.encoders, setting.storage, setting.tell)
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
