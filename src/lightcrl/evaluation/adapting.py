"""Fine-tuning on class folders: a model's method, and its encoder if asked for, trained to tell the classes.

    FineTuningSpec()                                              the method and a linear layer, on stored features
    parse(FineTuningSpec, {"tuning": {"blocks": 2}})              and the last two blocks of the encoder
    parse(FineTuningSpec, {"tuning": {"lora": 8}})                and adapters in all of its blocks

A fifth of each class of train is held for validation and chooses the best checkpoint; test is measured after a fifth,
two fifths, ... of the epochs (the protocol of LightCRL's paper, arXiv 2403.04650) and chooses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lightcrl.checkpoint import Checkpoint, make_method
from lightcrl.embedder import Embedder
from lightcrl.encoders.base import fingerprint
from lightcrl.encoders.tower import Tower, TuningSpec
from lightcrl.errors import TrainingError
from lightcrl.evaluation.base import Result
from lightcrl.evaluation.fine_tuning import evaluate
from lightcrl.evaluation.linear_probe import hold_out
from lightcrl.evaluation.probing import check_classes, check_counts, class_places
from lightcrl.evaluation.tasks import ClassFiles, ClassItems, Tell, media_modality
from lightcrl.features import Features, FeatureStore, Members, Split
from lightcrl.features.embed import embed_rows
from lightcrl.features.live import LiveStore
from lightcrl.features.table import make_members
from lightcrl.logs import read_log
from lightcrl.methods import Method
from lightcrl.methods.classifier import NAME, Classifier
from lightcrl.recipe import FeaturesSpec, TrainingSpec
from lightcrl.training import Judgement, train

POINTS = 5
"""Looks at test over the epochs; with 100 epochs those of the paper, 20, 40, 60, 80 and 100."""


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
    """Two sets of class folders, encoded, to fine-tune a model on.

    Attributes:
        embedder: the model to begin with; it stays as it is.
        train: items to fit and to hold.
        test: items to measure on, classes numbered as in `train`.
        features: how they are read.
        tell: called with what happens.
    """

    embedder: Embedder
    train: ClassItems
    test: ClassItems
    features: FeaturesSpec
    tell: Tell = field(default=lambda event: None)

    @classmethod
    def prepare(
        cls,
        embedder: Embedder,
        data: str,
        test: str | None,
        features: FeaturesSpec,
        *,
        files: str = "*",
        test_files: str | None = None,
        modality: str | None = None,
        tell: Tell = lambda event: None,
    ) -> FineTuning:
        """Read both folders, see that they can be used, and only then encode; the arguments are `LinearProbe`'s.

        Raises:
            DataError: as `LinearProbe.prepare`.
            ModalityError: no encoder is of pictures or sounds.
        """
        media = [name for name, kind in embedder.modalities.items() if kind != "text"]
        wanted = [modality] if modality else media[:1]
        encoders = {name: embedder.encoder(name) for name in wanted}
        chosen = media_modality(encoders, modality)
        places = class_places(data, test, files, test_files)
        fitted, measured = (ClassFiles.find(*place, chosen, encoders[chosen].kind) for place in places)
        check_classes(fitted, measured)
        known, unseen = (found.encode(encoders[chosen], chosen, features, tell) for found in (fitted, measured))
        check_counts(known.labels, known.names, fitted.root)
        number = {name: place for place, name in enumerate(known.names)}
        labels = np.array([number[unseen.names[label]] for label in unseen.labels], dtype=np.int64)
        return cls(embedder, known, replace(unseen, labels=labels, names=known.names), features, tell)

    def identity(self, spec: FineTuningSpec) -> str:
        """32 hex digits of all that decides the outcome: model, data, settings."""
        model = self.embedder.checkpoint.config()["digest"]
        stores = [self.train.store.fingerprint, self.test.store.fingerprint]
        settings = spec.model_dump(mode="json") | {"training": spec.training.identity()}
        return fingerprint([model, stores, self.train.names, settings])

    def __call__(self, spec: FineTuningSpec, folder: Path) -> Result:
        """Train, or go on, in `folder`, which keeps the best classifier; figures are of the best on test.

        Raises:
            TrainingError: the encoder has been trained before in other parts than it is to be now.
            EncoderError: it cannot be trained.
        """
        modality = self.train.modality
        held = hold_out(self.train.labels, seed=spec.seed)
        splits = {"train": _split(modality, self.train.rows[~held]), "dev": _split(modality, self.train.rows[held])}
        settings = spec.filled(int((~held).sum()))
        live = self._live(spec)
        test = live.get("test", self.test.store)
        checkpoint = self._checkpoint(spec)
        classifier = checkpoint.method
        assert isinstance(classifier, Classifier)
        known = self.train.labels[~held]
        classifier.labels = torch.from_numpy(known)
        features = Features.of({modality: self.train.store}, splits)
        train(
            checkpoint,
            features,
            settings,
            folder,
            seed=spec.seed,
            report=lambda event: self.tell({"method": "fine_tuning", "seed": spec.seed, **event}),
            live={modality: live["train"]} if live else None,
            judge=self._judge(test, held, int(settings.epochs)),
        )
        found = evaluate(embed_rows(classifier, test, modality, self.test.rows), self.test.labels, known)
        events = [event for event in read_log(folder) if "test_top1" in event]
        curve = {
            "epoch": [float(event["epoch"]) for event in events],
            "top1": [event["test_top1"] for event in events],
        }
        at = {f"epoch{event['epoch']}/top1": event for event in events}
        metrics = found.metrics | {name: event["test_top1"] for name, event in at.items()}
        ends = {name: (event["test_low"], event["test_high"]) for name, event in at.items()}
        chance = found.chance | dict.fromkeys(at, found.chance["top1"])
        counts = {"train": len(held), "held": int(held.sum()), **found.counts}
        return replace(
            found,
            metrics=metrics,
            interval=found.interval | ends,
            chance=chance,
            counts=counts,
            curves={"test": curve},
        )

    def _live(self, spec: FineTuningSpec) -> dict[str, LiveStore]:
        """Train's and test's stores over one tower; none where the encoder stays frozen."""
        if spec.tuning is None:
            return {}
        modality = self.train.modality
        before = self.embedder.checkpoint.towers.get(modality)
        if before is not None and (before.spec.blocks, before.spec.lora) != (spec.tuning.blocks, spec.tuning.lora):
            raise TrainingError(
                f"the encoder of {modality!r} was trained with blocks = {before.spec.blocks!r} and lora = "
                f"{before.spec.lora}, and cannot go on with blocks = {spec.tuning.blocks!r} and lora = "
                f"{spec.tuning.lora}. Expected the same, or no tuning."
            )
        tower = Tower(self.embedder.encoder(modality), spec.tuning)
        workers = self.features.workers
        return {
            name: LiveStore(found.store, tower, found.raw, workers=workers)
            for name, found in (("train", self.train), ("test", self.test))
        }

    def _checkpoint(self, spec: FineTuningSpec) -> Checkpoint:
        """A classifier over a copy of the model's method, with a fresh head."""
        base = self.embedder.checkpoint
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

    def _judge(self, test: FeatureStore, held: np.ndarray, epochs: int) -> Callable[[Method, Features, int], Judgement]:
        """Accuracy on what is held, and on test where the curve has a point."""
        shown = {max(1, round(epochs * point / POINTS)) for point in range(1, POINTS + 1)}
        modality = self.train.modality

        def judge(method: Method, features: Features, epoch: int) -> Judgement:
            rows, labels = self.train.rows[held], self.train.labels[held]
            known = self.train.labels[~held]
            found = evaluate(embed_rows(method, features.store(modality), modality, rows), labels, known)
            figures = {"dev_top1": found.metrics["top1"]}
            if epoch in shown:
                logits = embed_rows(method, test, modality, self.test.rows)
                seen = evaluate(logits, self.test.labels, known)
                figures["test_top1"] = seen.metrics["top1"]
                figures["test_low"], figures["test_high"] = seen.interval["top1"]
            return Judgement(figures, lambda: found)

        return judge


def _split(modality: str, rows: np.ndarray) -> Split:
    """A group for each item."""
    members: Mapping[str, Members] = {modality: make_members(rows, np.arange(len(rows)), len(rows))}
    return Split(np.arange(len(rows)).astype(str).astype(object), dict(members))
