"""The `[training]` table of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lightcrl.losses import LOSSES
from lightcrl.methods import Method


class TrainingSpec(BaseModel):
    """The `[training]` table. `"auto"` takes what suits the method (`suited`) and the amount of data (`make_plan`).

    Attributes:
        epochs: an epoch draws every group as often as it has items of its richest modality, so that each caption is
            seen about once.
        batch_size: groups per step.
        items_per_group: items of each modality that a group brings into a batch, all positives of each other.
        loss: a member of `LOSSES`.
        label_smoothing: of InfoNCE's targets; other losses have none.
        learning_rate: peak rate of AdamW.
        weight_decay: of weight matrices; biases, norms and the logit scale have none.
        warmup: share of all steps in which the rate rises.
        schedule: `"cosine"`, or the paper's `"plateau"` (times `plateau_factor` after `plateau_patience` epochs
            without a better dev loss).
        plateau_patience: epochs.
        plateau_factor: of the learning rate.
        clip: greatest norm of the gradient; 0 leaves it as it is.
        patience: stop after this many evaluations without a better dev mean R@1; 0 never stops early.
        evaluate_every: epochs between two evaluations on dev.
        precision: of the forward pass; `"auto"` takes bfloat16 where the GPU, or the CPU for batches of 256 and more,
            multiplies in it.
        chunk: items that go through a tower at once; the gradient is that of the whole batch. `"auto"` takes the
            encoder's batch size.
        memory: GiB of features that a process may hold. Stores that have more together are not held, but read in
            windows of groups, each shuffled by itself (`training.batches.Window`).
        device: `"auto"` takes the GPU when there is one.
        tensorboard: write TensorBoard logs beside log.jsonl (extra `tensorboard`).
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
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    chunk: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    memory: float = Field(default=4.0, gt=0)
    device: str = "auto"
    tensorboard: bool = True

    @model_validator(mode="after")
    def _check(self) -> TrainingSpec:
        if self.loss != "auto":
            LOSSES[self.loss]
        if self.label_smoothing not in ("auto", 0) and self.loss not in ("auto", "info_nce"):
            raise ValueError(f"label_smoothing is {self.label_smoothing}, but loss {self.loss!r} has none; expected 0")
        for name, least in (("epochs", 1), ("batch_size", 2)):
            value = getattr(self, name)
            if value != "auto" and value < least:
                raise ValueError(f"{name} is {value}, expected at least {least}")
        return self

    def identity(self) -> dict[str, Any]:
        """What decides the outcome, as JSON values: not where it runs, nor in what portions."""
        return self.model_dump(mode="json", exclude={"device", "tensorboard", "chunk", "memory"})

    @property
    def memory_bytes(self) -> float:
        """`memory` in bytes."""
        return self.memory * 2**30

    def suited(self, method: type[Method]) -> TrainingSpec:
        """This spec with what is `"auto"` filled in; batch size and epochs stay so unless the method has its own."""
        usual = {"loss": "info_nce", "learning_rate": 3e-3, "weight_decay": 0.05, "schedule": "cosine"}
        known = {**usual, **method.suits}
        chosen = {key: value for key, value in known.items() if getattr(self, key) == "auto"}
        spec = self.model_copy(update=chosen)
        if spec.label_smoothing == "auto":
            spec = spec.model_copy(update={"label_smoothing": 0.1 if spec.loss == "info_nce" else 0.0})
        return spec
