"""Fine-tuning on class folders: a model's method, and optionally its encoder, trained on the classes.

    FineTuningSpec()                                              the method and a linear layer, on stored features
    parse(FineTuningSpec, {"tuning": {"blocks": 2}})              and the last two blocks of the encoder
    parse(FineTuningSpec, {"tuning": {"lora": 8}})                and adapters in all of its blocks

A fifth of each class of train is held out for validation and chooses the best checkpoint. Test is measured after a
fifth, two fifths, ... of the epochs (the protocol of LightCRL's paper, arXiv 2403.04650) and chooses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from lightcrl.checkpoint import Checkpoint
from lightcrl.data import Dataset
from lightcrl.encoders.base import Encoder, fingerprint
from lightcrl.encoders.tower import Tower, TuningSpec
from lightcrl.errors import DataError, TrainingError
from lightcrl.events import Tell
from lightcrl.features import Features, Members, Split, Store
from lightcrl.features.embed import embed_rows
from lightcrl.features.live import LiveStore
from lightcrl.features.spec import FeaturesSpec
from lightcrl.features.states import store_states
from lightcrl.features.table import make_members
from lightcrl.files.local import make_folder, whole_file
from lightcrl.files.locks import only_writer
from lightcrl.methods import Method
from lightcrl.methods.classifier import NAME, Classifier
from lightcrl.methods.spec import make_method
from lightcrl.metrics.fine_tuning import evaluate, summarise
from lightcrl.metrics.probe import blind, hold_out, right
from lightcrl.metrics.result import Result
from lightcrl.processes import is_main
from lightcrl.tasks.base import EMBEDDING, Figures, Outcome, Setting, shares
from lightcrl.tasks.class_folders import ClassItems, TrainTestSpec, TrainTestTask
from lightcrl.tasks.spec import TaskSpec
from lightcrl.training.judge import Judgement
from lightcrl.training.loop import train
from lightcrl.training.spec import TrainingSpec

POINTS = 5
"""Number of measurements of test; with 100 epochs those of the paper, after 20, 40, 60, 80 and 100."""

LOOK = "test-epoch{}.npy"


class FineTuningSpec(TrainTestSpec):
    """Settings of fine-tuning.

    Attributes:
        training: training settings as in a recipe; by default 20 epochs in batches of 64.
        tuning: training settings of the encoder; None keeps it frozen.
        seed: seed of the head, the batches and the held-out part.
        output: folder of the classifier; by default a folder below the model's, named by a digest of all settings.
    """

    PATHS: ClassVar[tuple[str, ...]] = ("data", "test", "output")

    training: TrainingSpec = Field(default_factory=TrainingSpec)
    tuning: TuningSpec | None = None
    seed: int = 0
    output: str | None = None

    @model_validator(mode="after")
    def _check(self) -> FineTuningSpec:
        if self.training.schedule == "plateau":
            raise ValueError("training.schedule is 'plateau', which watches a contrastive loss; expected 'cosine'")
        return self

    def filled(self, items: int) -> TrainingSpec:
        """Return the training settings for `items` training items, by default a batch of 64 and 20 epochs."""
        chosen: dict[str, Any] = {"items_per_group": 1}
        if self.training.batch_size == "auto":
            chosen["batch_size"] = max(2, min(64, items // 2))
        if self.training.epochs == "auto":
            chosen["epochs"] = 20
        return self.training.model_copy(update=chosen)


@dataclass(frozen=True)
class FineTuningTask(TrainTestTask):
    """Accuracy of a classifier trained from a model: the best one, and after each fifth of the epochs.

    The units are items of test.

    Attributes:
        train: items for fitting and validation.
        test: measured items, with classes numbered as in `train`.
        encoder: encoder of both; it is not changed.
        spec: settings.
        storage: folder and form of the feature stores.
        tell: callback for events.
    """

    Spec: ClassVar[type[TaskSpec]] = FineTuningSpec
    name: ClassVar[str] = "FineTuningTask"

    train: ClassItems
    test: ClassItems
    encoder: Encoder
    spec: FineTuningSpec
    storage: FeaturesSpec
    tell: Tell = field(default=lambda event: None)

    @classmethod
    def prepare(cls, spec: FineTuningSpec, setting: Setting) -> FineTuningTask:
        """Encode both folders; see `TrainTestSpec.encode`."""
        return cls(*spec.encode(setting), spec, setting.storage, setting.tell)

    @property
    def identity(self) -> Sequence[Any]:  # type: ignore[override]
        """Items and labels of both parts, and the settings of the training."""
        return [*self.parts, self.spec.model_dump(mode="json", include={"training", "tuning", "seed"})]

    @property
    def headlines(self) -> Sequence[tuple[str, str]]:
        """Accuracy of the best classifier."""
        return ((EMBEDDING, "top1"),)

    def digest(self, checkpoint: Checkpoint) -> str:
        """Return 32 hex digits of all that decides the outcome: model, data, settings."""
        stores = [self.train.store.fingerprint, self.test.store.fingerprint]
        settings = self.spec.model_dump(mode="json", include={"training", "tuning", "seed"})
        settings |= {"training": self.spec.training.identity()}
        return fingerprint([checkpoint.digest, stores, self.train.names, settings])

    def measure(self, checkpoint: Checkpoint, folder: Path | None = None) -> Outcome:
        """Fine-tune, or resume; return the correctness of items of test, [1 + E, N]: for the best, and by fifths.

        The model itself is not changed; the best classifier is kept in a separate folder.

        Raises:
            DataError: there is no folder for the classifier.
            LockedError: another process writes to that folder.
            TrainingError: other parts of the encoder were trained before.
            EncoderError: the encoder cannot be trained.
        """
        if self.spec.output is not None:
            place = Path(self.spec.output)
        elif folder is not None:
            place = folder / f"tuned-{self.digest(checkpoint)[:10]}"
        else:
            raise DataError("there is no folder for the fine-tuned model; name it with output (--output).")
        with only_writer(place, self.tell) if is_main() else nullcontext():
            best = self._train(checkpoint, place)
        wanted = torch.from_numpy(self.test.labels)
        return Outcome({EMBEDDING: np.stack([right(logits, wanted) for logits in (best, *looks(place).values())])})

    def figures(self, space: str, outcome: np.ndarray) -> Figures:
        """`top1` and `epochN/top1`."""
        return shares(self._measures, outcome, np.ones((1, self.units)))

    def result(self, outcome: Outcome) -> Result:
        """`top1` and `epochN/top1` with intervals over items of test; the latter also as a curve."""
        hit = dict(zip(self._measures, outcome.items[EMBEDDING], strict=True))
        return summarise(hit, self._fitted_labels, self.test.labels, len(self.train.labels))

    def chance(self, space: str, measure: str) -> float:
        """The share in test of the most frequent class of train."""
        return blind(self._fitted_labels, self.test.labels)

    @property
    def _fitted_labels(self) -> np.ndarray:
        labels: np.ndarray = self.train.labels[~hold_out(self.train.labels, seed=self.spec.seed)]
        return labels

    @property
    def _measures(self) -> list[str]:
        epochs = int(self.spec.filled(len(self._fitted_labels)).epochs)
        return ["top1", *(f"epoch{epoch}/top1" for epoch in points(epochs))]

    def _train(self, checkpoint: Checkpoint, folder: Path) -> Tensor:
        """Train the classifier in `folder`; return the logits [N, C] of test at its best."""
        spec = self.spec
        modality = self.train.modality
        held = hold_out(self.train.labels, seed=spec.seed)
        fitted = self.train.labels[~held]
        splits = {"train": _split(modality, self.train.rows[~held]), "dev": _split(modality, self.train.rows[held])}
        settings = spec.filled(len(fitted))
        live = self._live(checkpoint)
        test = live.get("test", self.test.store)
        tuned = self._checkpoint(checkpoint)
        classifier = tuned.method
        assert isinstance(classifier, Classifier)
        classifier.labels = torch.from_numpy(fitted)
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
        return embed_rows(classifier, test, modality, self.test.rows)

    def _live(self, checkpoint: Checkpoint) -> dict[str, LiveStore]:
        """Return the stores of train and test over a shared tower; none if the encoder is frozen."""
        tuning = self.spec.tuning
        if tuning is None:
            return {}
        modality = self.train.modality
        before = checkpoint.towers.get(modality)
        if before is not None and (before.spec.blocks, before.spec.lora) != (tuning.blocks, tuning.lora):
            raise TrainingError(
                f"the encoder of {modality!r} was trained with blocks = {before.spec.blocks!r} and lora = "
                f"{before.spec.lora}, and cannot resume with blocks = {tuning.blocks!r} and lora = "
                f"{tuning.lora}. Expected the same, or no tuning."
            )
        tower = Tower(self.encoder, tuning)
        workers = self.storage.workers
        live = {}
        for name, items in (("train", self.train), ("test", self.test)):
            links = np.stack([np.arange(len(items.raw)), np.zeros(len(items.raw), dtype=np.int64)], 1)
            data = Dataset(["all"], ["train"], {modality: list(items.raw)}, {modality: links})
            states = store_states({modality: self.encoder}, {modality: tuning}, data, self.storage, self.tell)
            live[name] = LiveStore(items.store, tower, items.raw, workers=workers, states=states.get(modality))
        return live

    def _checkpoint(self, base: Checkpoint) -> Checkpoint:
        """Make a classifier over a copy of the model's method, with a fresh head."""
        below = base.method.options.model_dump(mode="json")
        options = {"method": base.name, "below": below, "classes": self.train.names}
        method = make_method(NAME, base.method.modalities, options, "info_nce", self.spec.seed)
        assert isinstance(method, Classifier)
        state = {name: tensor for name, tensor in base.method.state_dict().items() if name != "logit_bias"}
        method.body.take_state(state)
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
        """Judge by accuracy on the held-out part; write logits of test after each fifth of the epochs."""
        wanted = points(epochs)
        modality = self.train.modality

        def judge(method: Method, features: Features, epoch: int) -> Judgement:
            logits = embed_rows(method, features.store(modality), modality, self.train.rows[held])
            labels, fitted = self.train.labels[held], self.train.labels[~held]
            score = float(right(logits, torch.from_numpy(labels)).mean())
            if epoch in wanted and is_main():
                with whole_file(folder / LOOK.format(epoch)) as temporary, temporary.open("wb") as stream:
                    np.save(stream, embed_rows(method, test, modality, self.test.rows).numpy())
            return Judgement({"dev_top1": score}, lambda: evaluate(logits, labels, fitted))

        return judge


def points(epochs: int) -> list[int]:
    """Return the numbers of epochs after which test is measured.

    >>> points(100)
    [20, 40, 60, 80, 100]
    """
    return sorted({max(1, round(epochs * point / POINTS)) for point in range(1, POINTS + 1)})


def looks(folder: Path) -> dict[int, Tensor]:
    """Return the logits [N, C] of test that a fine-tuning in `folder` has written, by number of epochs."""
    paths = {int(path.stem.removeprefix("test-epoch")): path for path in folder.glob(LOOK.format("*"))}
    return {epoch: torch.from_numpy(np.load(paths[epoch], allow_pickle=False)) for epoch in sorted(paths)}


def _split(modality: str, rows: np.ndarray) -> Split:
    """Return a split with a group for each item."""
    members: Mapping[str, Members] = {modality: make_members(rows, np.arange(len(rows)), len(rows))}
    return Split(len(rows), dict(members))
