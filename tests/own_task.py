"""A task from outside the library: whether the nearest other picture is of the same class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lightcrl.tasks.base import EMBEDDING, Outcome, Task, shares
from lightcrl.tasks.class_folders import ClassFiles, ClassItems, FoldersSpec, media_modality


class NeighbourSpec(FoldersSpec):
    files: str = "*"


@dataclass(frozen=True)
class Neighbour(Task):
    Spec: ClassVar[Any] = NeighbourSpec
    name: ClassVar[str] = "Neighbour"
    headlines = ((EMBEDDING, "same_class"),)

    items: ClassItems
    units: int
    identity: Any

    @classmethod
    def modalities(cls, spec, kinds):
        return (media_modality(kinds),)

    @classmethod
    def prepare(cls, spec, setting):
        ((modality, encoder),) = setting.encoders.items()
        files = ClassFiles.find(spec.folder(), spec.files, modality, encoder.kind)
        items = files.encode(encoder, modality, setting.storage, setting.tell)
        return cls(items, len(items.labels), [items.store.fingerprint, items.labels.tolist()])

    def measure(self, checkpoint, folder=None):
        vectors = self.items.vectors(checkpoint.method).double().numpy()
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -2)
        hit = self.items.labels[cosines.argmax(1)] == self.items.labels
        return Outcome({EMBEDDING: hit[None].astype(float)})

    def figures(self, space, outcome):
        return shares(["same_class"], outcome, np.ones((1, self.units)))
