"""The `[training]` table of a recipe."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from lightcrl.losses import LOSSES
from lightcrl.methods import Method
from lightcrl.training.trackers import TRACKERS


class TrainingSpec(BaseModel):
    """The `[training]` table. `"auto"` is resolved by the method (`suited`) and the amount of data (`make_plan`).

    Attributes:
        epochs: number of epochs; an epoch draws every group as often as it has items of its richest modality, so that
            each caption is seen about once.
        batch_size: groups per step.
        items_per_group: items of each modality per group and batch, all positives of each other.
        loss: a member of `LOSSES`.
        label_smoothing: smoothing of InfoNCE's targets; other losses have none.
        learning_rate: peak rate of AdamW.
        weight_decay: decay of weight matrices; biases, norms and the logit scale have none.
        warmup: share of all steps in which the rate rises.
        schedule: `"cosine"`, or the paper's `"plateau"` (times `plateau_factor` after `plateau_patience` epochs without
            a better dev loss).
        plateau_patience: number of epochs.
        plateau_factor: factor of the learning rate.
        clip: greatest norm of the gradient; 0 does not clip.
        patience: number of evaluations without a better dev mean R@1 after which training stops; 0 never stops early.
        evaluate_every: epochs between two evaluations on dev.
        hubs: correction of the finished model for hubs (`lightcrl.methods.hubs`), kept unless dev's figure falls;
            `"auto"` is true unless the method is a published one or has fewer than `training.hubs.LEAST` groups.
        precision: precision of the forward pass; `"auto"` is bfloat16 if the GPU supports it, or the CPU for batches of
            256 and more.
        chunk: number of items per pass through a tower; the gradient is that of the whole batch. `"auto"` is the
            encoder's batch size.
        memory: GiB of features that a process may hold. Larger stores are read in windows of groups, each shuffled
            separately (`training.batches.Window`).
        device: device of the training; `"auto"` is the GPU if there is one.
        tensorboard: true to write TensorBoard logs beside log.jsonl, if the extra `tensorboard` is installed and
            `trackers` is not given.
        trackers: trackers of the training, members of `TRACKERS` or `"package.module:Class"`; they are required.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int | Literal["auto"] = "auto"
    batch_size: int | Literal["auto"] = "auto"
    items_per_group: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    loss: str = "auto"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = "auto"
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    weight_decay: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    warmup: float = Field(default=0.05, ge=0, lt=1)
    schedule: Literal["auto", "cosine", "plateau"] = "auto"
    plateau_patience: int = Field(default=5, ge=0)
    plateau_factor: float = Field(default=0.8, gt=0, lt=1)
    clip: float = Field(default=1.0, ge=0)
    patience: int = Field(default=0, ge=0)
    evaluate_every: int = Field(default=1, gt=0)
    hubs: bool | Literal["auto"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    chunk: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    memory: float = Field(default=4.0, gt=0)
    device: str = "auto"
    tensorboard: bool = True
    trackers: tuple[str, ...] | None = None
    _bends: bool = PrivateAttr(default=False)

    @property
    def bends(self) -> bool:
        """True if `batch_size` is a wish of the method, which data with fewer groups may make smaller."""
        return self._bends

    @model_validator(mode="after")
    def _check(self) -> TrainingSpec:
        if self.loss != "auto":
            LOSSES[self.loss]
        for name in self.trackers or ():
            if ":" not in name:
                TRACKERS[name]
        if self.label_smoothing not in ("auto", 0) and self.loss not in ("auto", "info_nce"):
            raise ValueError(f"label_smoothing is {self.label_smoothing}, but loss {self.loss!r} has none; expected 0")
        for name, least in (("epochs", 1), ("batch_size", 2)):
            value = getattr(self, name)
            if value != "auto" and value < least:
                raise ValueError(f"{name} is {value}, expected at least {least}")
        return self

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the trained weights, as JSON values, without device and chunk sizes."""
        return self.model_dump(mode="json", exclude={"device", "tensorboard", "trackers", "chunk", "memory", "hubs"})

    @property
    def tracked_by(self) -> tuple[str, ...]:
        """Names of the trackers: the recipe's, otherwise TensorBoard if it is installed and wanted."""
        if self.trackers is not None:
            return self.trackers
        return ("tensorboard",) if self.tensorboard and find_spec("tensorboard") is not None else ()

    @property
    def memory_bytes(self) -> float:
        """The limit `memory` in bytes."""
        return self.memory * 2**30

    def suited(self, method: type[Method] | Method) -> TrainingSpec:
        """Resolve `"auto"` for a method; batch size and epochs stay `"auto"` unless the method has its own."""
        usual = {"loss": "info_nce", "learning_rate": 3e-3, "weight_decay": 0.05, "schedule": "cosine"}
        preferred = {**usual, **method.suits}
        chosen = {key: value for key, value in preferred.items() if getattr(self, key) == "auto"}
        spec = self.model_copy(update=chosen)
        spec._bends = self._bends or "batch_size" in chosen
        if spec.label_smoothing == "auto":
            spec = spec.model_copy(update={"label_smoothing": 0.1 if spec.loss == "info_nce" else 0.0})
        return spec
