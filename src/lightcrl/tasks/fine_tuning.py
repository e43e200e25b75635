"""Fine-tuning on class folders: a model's method, and its encoder if asked for, trained to tell the classes.

    FineTuningSpec()                                              the method and a linear layer, on stored features
    parse(FineTuningSpec, {"tuning": {"blocks": 2}})              and the last two blocks of the encoder
    parse(FineTuningSpec, {"tuning": {"lora": 8}})                and adapters in all of its blocks

A fifth of each class of train is held for validation and chooses the best checkpoint; test is measured after a fifth,
two fifths, ... of the epochs (the protocol of LightCRL's paper, arXiv 2403.04650) and chooses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from lightcrl.checkpoint import Checkpoint
from lightcrl.encoders.base import Encoder, fingerprint
from lightcrl.encoders.tower import Tower, TuningSpec
from lightcrl.errors import TrainingError
from lightcrl.events import Tell
from lightcrl.features import Features, Members, Split, Store
from lightcrl.features.embed import embed_rows
from lightcrl.features.live import LiveStore
from lightcrl.features.spec import FeaturesSpec
from lightcrl.features.table import make_members
from lightcrl.files.local import make_folder, whole_file
from lightcrl.methods import Method
from lightcrl.methods.classifier import NAME, Classifier
from lightcrl.methods.spec import make_method
from lightcrl.metrics.fine_tuning import evaluate
from lightcrl.metrics.probe import EPOCHS, hold_out, right
from lightcrl.metrics.result import Result
from lightcrl.processes import is_main
from lightcrl.specs import parse
from lightcrl.tasks.base import EMBEDDING, Figures, Outcome, Setting, Task, TaskSpec, shares
from lightcrl.tasks.class_folders import ClassFolders, ClassItems
from lightcrl.tasks.linear_probe import ProbeSpec
from lightcrl.training.loop import Judgement, train
from lightcrl.training.spec import TrainingSpec

POINTS = 5
"""Looks at test over the epochs; with 100 epochs those of the paper, 20, 40, 60, 80 and 100."""

LOOK = "test-epoch{}.npy"


class FineTuningSpec(BaseModel):
    """How to fine-tune.

    Attributes:
        training: as in a recipe; by default 20 epochs in batches of 64.
        tuning: how the encoder is trained; frozen without.
        seed: of the head, the batches and the held part.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    training: TrainingSpec = Field(default_factory=TrainingSpec)
    tuning: TuningSpec | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> FineTuningSpec:
        if self.training.schedule == "plateau":
            raise ValueError("training.schedule is 'plateau', which watches a contrastive loss; expected 'cosine'")
        return self

    def filled(self, items: int) -> TrainingSpec:
        """The training settings for `items` to fit on: a batch of 64, and 20 epochs, unless they say otherwise."""
        chosen: dict[str, Any] = {"items_per_group": 1}
        if self.training.batch_size == "auto":
            chosen["batch_size"] = max(2, min(64, items // 2))
        if self.training.epochs == "auto":
            chosen["epochs"] = 20
        return self.training.model_copy(update=chosen)


@dataclass(frozen=True)
class FineTuning:
    """Two sets of class folders, encoded, to fine-tune models on.

    Attributes:
        train: items to fit and to hold.
        test: items to measure on, classes numbered as in `train`.
        encoder: of both; it stays as it is.
        features: how files are read.
        tell: called with what happens.
    """

    train: ClassItems
    test: ClassItems
    encoder: Encoder
    features: FeaturesSpec
    tell: Tell = field(default=lambda event: None)

    @classmethod
    def prepare(
        cls,
        folders: ClassFolders,
        encoders: Mapping[str, Encoder],
        features: FeaturesSpec,
        tell: Tell = lambda event: None,
    ) -> FineTuning:
        """Read and encode the folders.

        Raises:
            DataError: as `ClassFolders.encode`.
            ModalityError: as there.
        """
        return cls(*folders.encode(encoders, features, tell), features, tell)

    def identity(self, checkpoint: Checkpoint, spec: FineTuningSpec) -> str:
        """32 hex digits of all that decides the outcome: model, data, settings."""
        stores = [self.train.store.fingerprint, self.test.store.fingerprint]
        settings = spec.model_dump(mode="json") | {"training": spec.training.identity()}
        return fingerprint([checkpoint.config()["digest"], stores, self.train.names, settings])

    def __call__(self, checkpoint: Checkpoint, spec: FineTuningSpec, folder: Path) -> Result:
        """Fine-tune, or go on, in `folder`, which keeps the best classifier; the model itself stays as it is.

        Returns:
            `top1` of the best checkpoint on test, and `epochN/top1` after each fifth of the epochs, with intervals over
            items; the latter also as a curve.

        Raises:
            TrainingError: the encoder has been trained before in other parts than it is to be now.
            EncoderError: it cannot be trained.
        """
        modality = self.train.modality
        held = hold_out(self.train.labels, seed=spec.seed)
        known = self.train.labels[~held]
        splits = {"train": _split(modality, self.train.rows[~held]), "dev": _split(modality, self.train.rows[held])}
        settings = spec.filled(len(known))
        live = self._live(checkpoint, spec)
        test = live.get("test", self.test.store)
        tuned = self._checkpoint(checkpoint, spec)
        classifier = tuned.method
        assert isinstance(classifier, Classifier)
        classifier.labels = torch.from_numpy(known)
        train(
            tuned,
            Features.of({modality: self.train.store}, splits),
            settings,
            make_folder(folder),
            seed=spec.seed,
            report=lambda event: self.tell({"method": "fine_tuning", "seed": spec.seed, **event}),
            live={modality: live["train"]} if live else None,
            judge=self._judge(test, held, int(settings.epochs), folder),
        )
        logits = {"top1": embed_rows(classifier, test, modality, self.test.rows)}
        seen = looks(folder)
        logits |= {f"epoch{epoch}/top1": found for epoch, found in seen.items()}
        found = {name: evaluate(each, self.test.labels, known) for name, each in logits.items()}
        epochs = {epoch: found[f"epoch{epoch}/top1"].metrics["top1"] for epoch in seen}
        return Result(
            {name: one.metrics["top1"] for name, one in found.items()},
            {name: one.interval["top1"] for name, one in found.items()},
            {name: one.chance["top1"] for name, one in found.items()},
            {"train": len(held), "held": int(held.sum()), **found["top1"].counts},
            curves={"test": {"epoch": [float(epoch) for epoch in epochs], "top1": list(epochs.values())}},
        )

    def _live(self, checkpoint: Checkpoint, spec: FineTuningSpec) -> dict[str, LiveStore]:
        """Train's and test's stores over one tower; none where the encoder stays frozen."""
        if spec.tuning is None:
            return {}
        modality = self.train.modality
        before = checkpoint.towers.get(modality)
        if before is not None and (before.spec.blocks, before.spec.lora) != (spec.tuning.blocks, spec.tuning.lora):
            raise TrainingError(
                f"the encoder of {modality!r} was trained with blocks = {before.spec.blocks!r} and lora = "
                f"{before.spec.lora}, and cannot go on with blocks = {spec.tuning.blocks!r} and lora = "
                f"{spec.tuning.lora}. Expected the same, or no tuning."
            )
        tower = Tower(self.encoder, spec.tuning)
        workers = self.features.workers
        return {
            name: LiveStore(found.store, tower, found.raw, workers=workers)
            for name, found in (("train", self.train), ("test", self.test))
        }

    def _checkpoint(self, base: Checkpoint, spec: FineTuningSpec) -> Checkpoint:
        """A classifier over a copy of the model's method, with a fresh head."""
        below = base.method.options.model_dump(mode="json")
        options = {"method": base.name, "below": below, "classes": self.train.names}
        method = make_method(NAME, base.method.modalities, options, "info_nce", spec.seed)
        assert isinstance(method, Classifier)
        state = {name: tensor for name, tensor in base.method.state_dict().items() if name != "logit_bias"}
        method.body.load_state_dict(state)
        return Checkpoint(
            method,
            name=NAME,
            loss="info_nce",
            encoders=base.encoders,
            fingerprints=base.fingerprints,
            recipe=base.recipe,
            towers=base.towers,
        )

    def _judge(
        self, test: Store, held: np.ndarray, epochs: int, folder: Path
    ) -> Callable[[Method, Features, int], Judgement]:
        """Accuracy on what is held; after each fifth of the epochs, logits of test are written."""
        wanted = points(epochs)
        modality = self.train.modality

        def judge(method: Method, features: Features, epoch: int) -> Judgement:
            logits = embed_rows(method, features.store(modality), modality, self.train.rows[held])
            labels, known = self.train.labels[held], self.train.labels[~held]
            score = float(right(logits, torch.from_numpy(labels)).mean())
            if epoch in wanted and is_main():
                with whole_file(folder / LOOK.format(epoch)) as temporary, temporary.open("wb") as stream:
                    np.save(stream, embed_rows(method, test, modality, self.test.rows).numpy())
            return Judgement({"dev_top1": score}, lambda: evaluate(logits, labels, known))

        return judge


def points(epochs: int) -> list[int]:
    """After how many epochs test is measured.

    >>> points(100)
    [20, 40, 60, 80, 100]
    """
    return sorted({max(1, round(epochs * point / POINTS)) for point in range(1, POINTS + 1)})


def looks(folder: Path) -> dict[int, Tensor]:
    """By number of epochs done, the logits [N, C] of test that a fine-tuning in `folder` has written."""
    found = {int(path.stem.removeprefix("test-epoch")): path for path in folder.glob(LOOK.format("*"))}
    return {epoch: torch.from_numpy(np.load(found[epoch], allow_pickle=False)) for epoch in sorted(found)}


def _split(modality: str, rows: np.ndarray) -> Split:
    """A group for each item."""
    members: Mapping[str, Members] = {modality: make_members(rows, np.arange(len(rows)), len(rows))}
    return Split(len(rows), dict(members))


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
        tuning = FineTuning.prepare(spec.folders(), setting.encoders, setting.storage, setting.tell)
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
