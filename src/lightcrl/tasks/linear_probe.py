"""The linear probe on class folders: every file encoded once, every model of a run beside the raw encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lightcrl.encoders.base import Encoder
from lightcrl.features.embed import own_rows
from lightcrl.methods import Method
from lightcrl.metrics.probe import evaluate
from lightcrl.metrics.result import Result
from lightcrl.recipe import FeaturesSpec
from lightcrl.tasks.class_folders import ClassFolders
from lightcrl.tasks.raw import ClassItems, Tell


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
