"""Zero-shot classification of class folders: items and prompts encoded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lightcrl.checkpoint import Checkpoint
from lightcrl.data.folder import readable_class
from lightcrl.encoders.base import Encoder
from lightcrl.events import Tell
from lightcrl.features.spec import FeaturesSpec
from lightcrl.methods import Method
from lightcrl.metrics.intervals import hits
from lightcrl.metrics.result import Result
from lightcrl.metrics.zero_shot import TEMPLATES, class_vectors, evaluate, label_ranks, prompts
from lightcrl.specs import parse
from lightcrl.tasks.base import EMBEDDING, Figures, Outcome, Setting, Task, TaskSpec, shares
from lightcrl.tasks.class_folders import ClassFiles, ClassItems, FoldersSpec, _first, media_modality
from lightcrl.tasks.spec import ZeroShotSpec
from lightcrl.tokens import TokenBatch


@dataclass(frozen=True)
class ZeroShot:
    """A folder of class folders, encoded and ready to score any method on.

    Attributes:
        items: what the folder holds.
        classes: readable class names.
        text: the modality of the prompts.
        tokens: of all prompts, classes first.
    """

    items: ClassItems
    classes: tuple[str, ...]
    text: str
    tokens: TokenBatch

    @classmethod
    def prepare(
        cls,
        spec: ZeroShotSpec,
        encoders: Mapping[str, Encoder],
        features: FeaturesSpec,
        tell: Tell = lambda event: None,
    ) -> ZeroShot:
        """Read the folder and encode its items and the prompts.

        Raises:
            DataError: the folder has no class folders.
            ModalityError: the encoders lack text, or anything but text.
        """
        media = media_modality(encoders, spec.modality)
        text = _first(encoders, lambda kind: kind == "text", "text")
        found = ClassFiles.find(spec.data, spec.files, media, encoders[media].kind)
        items = found.encode(encoders[media], media, features, tell)
        classes = tuple(readable_class(name) for name in items.names)
        templates = spec.templates or TEMPLATES[encoders[media].kind]
        prepared = [encoders[text].prepare(prompt) for prompt in prompts(classes, templates)]
        size = encoders[text].batch_size
        tokens = [
            sequence
            for start in range(0, len(prepared), size)
            for sequence in encoders[text].encode(prepared[start : start + size]).to("cpu", torch.float32).ragged()
        ]
        return cls(items, classes, text, TokenBatch.from_ragged(tokens))

    def __call__(self, method: Method) -> Result:
        """Top-1 to top-5 accuracy."""
        return evaluate(self.items.vectors(method), self.items.labels, self.class_vectors(method))

    def per_item(self, method: Method) -> np.ndarray:
        """[N, 3] how each item's right class fares; see `ranks.ranks`."""
        return label_ranks(self.items.vectors(method), self.items.labels, self.class_vectors(method))

    @torch.inference_mode()
    def class_vectors(self, method: Method) -> Tensor:
        """Unit vectors [C, d] of the classes."""
        method.eval()
        device = next(method.parameters()).device
        return class_vectors(method(self.text, self.tokens.to(device)).cpu(), len(self.classes))


TOPS = (1, 2, 3, 4, 5)


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
        prepared = ZeroShot.prepare(wanted, setting.encoders, setting.storage, setting.tell)
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
