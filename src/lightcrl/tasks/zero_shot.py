"""Zero-shot classification of class folders: items and prompts encoded once, top-1 to top-5 accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lightcrl.checkpoint import Checkpoint
from lightcrl.data import Rejection
from lightcrl.data.folder import readable_class
from lightcrl.encoders.base import Encoder
from lightcrl.methods import Method
from lightcrl.metrics.intervals import hits
from lightcrl.metrics.result import Result
from lightcrl.metrics.zero_shot import TEMPLATES, TOPS, accuracy, class_vectors, label_ranks, prompts
from lightcrl.tasks.base import EMBEDDING, Figures, Outcome, Setting, Task, shares
from lightcrl.tasks.class_folders import ClassFiles, ClassItems, FoldersSpec, media_modality, text_modality
from lightcrl.tasks.spec import TaskSpec
from lightcrl.tokens import TokenBatch


class ZeroShotSpec(FoldersSpec):
    """Settings of zero-shot classification.

    Attributes:
        split: folder of `data` to take, where it has one for each split.
        files: pattern of the file names to take, such as those of a fold that training never saw.
        templates: prompts with `{}` where the class name goes, averaged; by default those of the modality.
        modality: modality of the items; by default the first that is not text.
    """

    split: str | None = None
    files: str = "*"
    templates: tuple[str, ...] | None = None
    modality: str | None = None


@dataclass(frozen=True)
class ZeroShotTask(Task):
    """Top-1 to top-5 accuracy; the units are items.

    Attributes:
        items: items of the class folders.
        classes: readable class names.
        text: modality of the prompts.
        tokens: tokens of all prompts, classes first.
        templates: prompts before the class names are filled in.
    """

    Spec: ClassVar[type[TaskSpec]] = ZeroShotSpec
    name: ClassVar[str] = "ZeroShotTask"

    items: ClassItems
    classes: tuple[str, ...]
    text: str
    tokens: TokenBatch
    templates: tuple[str, ...] = ()
    text_fingerprint: str = ""

    @classmethod
    def modalities(cls, spec: ZeroShotSpec, kinds: Mapping[str, str]) -> Sequence[str]:
        """The modality of the items and that of the prompts."""
        return media_modality(kinds, spec.modality), text_modality(kinds)

    @classmethod
    def prepare(cls, spec: ZeroShotSpec, setting: Setting) -> ZeroShotTask:
        """Read the folder and encode its items and the prompts.

        Raises:
            DataError: the folder has no class folders.
            ModalityError: the encoders lack text, or anything but text.
        """
        encoders = setting.encoders
        media, text = cls.modalities(spec, {modality: encoder.kind for modality, encoder in encoders.items()})
        files = ClassFiles.find(spec.folder() / (spec.split or ""), spec.files, media, encoders[media].kind)
        items = files.encode(encoders[media], media, setting.storage, setting.tell)
        classes = tuple(readable_class(name) for name in items.names)
        templates = spec.templates or TEMPLATES[encoders[media].kind]
        tokens = _encode(prompts(classes, templates), encoders[text])
        return cls(items, classes, text, tokens, templates, encoders[text].fingerprint)

    @property
    def units(self) -> int:  # type: ignore[override]
        """Number of items."""
        return len(self.items.labels)

    @property
    def identity(self) -> Sequence[Any]:  # type: ignore[override]
        """Items, labels, prompts and the encoder of the prompts."""
        labels = self.items.labels.tolist()
        return [self.items.store.fingerprint, labels, self.classes, self.templates, self.text_fingerprint]

    @property
    def rejected(self) -> Sequence[Rejection]:  # type: ignore[override]
        """Files set aside."""
        return self.items.rejected

    @property
    def headlines(self) -> Sequence[tuple[str, str]]:
        """Top-1 accuracy."""
        return ((EMBEDDING, "top1"),)

    def measure(self, checkpoint: Checkpoint, folder: Path | None = None) -> Outcome:
        """Return [K, N]: the probability that an item's right class is among the first k, ties broken at random."""
        method = checkpoint.method
        counts = label_ranks(self.items.vectors(method), self.items.labels, self.class_vectors(method))
        return Outcome({EMBEDDING: np.stack([hits(counts, k) for k in self._tops])})

    def figures(self, space: str, outcome: np.ndarray) -> Figures:
        """`topK`."""
        return shares([f"top{k}" for k in self._tops], outcome, np.ones((1, self.units)))

    def result(self, outcome: Outcome) -> Result:
        """`topK` with intervals over items."""
        return accuracy(outcome.items[EMBEDDING], len(self.classes))

    def chance(self, space: str, measure: str) -> float:
        """K of the classes."""
        return int(measure.removeprefix("top")) / len(self.classes)

    @torch.inference_mode()
    def class_vectors(self, method: Method) -> Tensor:
        """Unit vectors [C, d] of the classes."""
        method.eval()
        device = next(method.parameters()).device
        return class_vectors(method(self.text, self.tokens.to(device)).cpu(), len(self.classes))

    @property
    def _tops(self) -> tuple[int, ...]:
        return TOPS[: len(self.classes)]


def _encode(texts: Sequence[str], encoder: Encoder) -> TokenBatch:
    prepared = [encoder.prepare(text) for text in texts]
    size = encoder.batch_size
    sequences = [
        sequence
        for start in range(0, len(prepared), size)
        for sequence in encoder.encode(prepared[start : start + size]).to("cpu", torch.float32).ragged()
    ]
    return TokenBatch.from_ragged(sequences)
