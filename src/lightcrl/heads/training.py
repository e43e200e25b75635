"""A head as the one loop trains it: a method without stems, whose objective is the head's loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightcrl.heads.base import HeadBatch, Material, Space
from lightcrl.heads.spec import head_class
from lightcrl.losses import Loss
from lightcrl.methods.base import Method, Step
from lightcrl.methods.stems import Inlet, MethodOptions
from lightcrl.tokens import TokenBatch, TokenSpec

NAME = "lightcrl.heads.training:HeadTraining"
"""Name of `HeadTraining` in checkpoints of a training; a literal, since files hold it. It is no member of `METHODS`."""


class HeadTrainingOptions(MethodOptions):
    """Options of `HeadTraining`.

    Attributes:
        kind: kind of the head, a member of `HEADS`.
        below: options of the head.
        space: digest of the checkpoint with the space.
        body: token shapes of all modalities of the space.
    """

    kind: str
    below: dict[str, Any]
    space: str
    body: dict[str, TokenSpec]


class HeadTraining(Method):
    """A head in training. It holds no weight of the space, so that no step can change one.

    Attributes:
        head: the trained head.
        material: its data, set before the training; not part of a checkpoint.
    """

    Options: ClassVar[type[MethodOptions]] = HeadTrainingOptions
    one_process: ClassVar[bool] = True
    network_in_objective: ClassVar[bool] = True
    rigid: ClassVar[str] = "it is the training of a head"
    options: HeadTrainingOptions

    def __init__(self, modalities: Mapping[str, TokenSpec], options: HeadTrainingOptions) -> None:
        super().__init__(modalities, options)
        kind = head_class(options.kind)
        self.head = kind(Space(options.body, options.dim), kind.Options.model_validate(options.below))
        # In methods these are class attributes; here they depend on the head.
        self.sequences = self.head.sequences
        self.suits = {"precision": "float32", "device": "cpu", **self.head.suits}  # type: ignore[misc]
        self.closed_form = self.head.closed_form  # type: ignore[misc]
        self.logit_scale.requires_grad_(False)
        self.material: Material | None = None

    def make_stem(self, modality: str) -> Inlet:
        """Return an inlet without weights: heads have their own."""
        return Inlet(TokenSpec(1), self.options)

    def parts(self) -> dict[str, int]:
        """Return the number of trained parameters by part of the head."""
        return self.head.parts()

    def dropped(self) -> dict[str, float]:
        """Return no shares: heads drop input features by themselves."""
        return {}

    def embed(self, modality: str, tokens: TokenBatch) -> Tensor:
        """Return [B, 0]: embeddings are those of the space, in `material`."""
        return tokens.values.new_zeros(len(tokens), 0)

    def finish(self, vectors: Tensor) -> Tensor:
        """Return vectors [B, 0] unchanged."""
        return vectors

    def fit(self, modality: str, tokens: TokenBatch) -> None:
        """Let the head set its statistics of features."""
        if modality not in self.head.targets:
            self.head.fit(modality, self.visible(modality, tokens))

    def objective(self, loss: Loss, embeddings: Mapping[str, Tensor], step: Step) -> Tensor:
        """Return the loss of the head; `loss` is for embeddings and is ignored."""
        assert self.material is not None
        device = self.logit_scale.device
        read = {name: tokens for name, tokens in step.tokens.items() if name not in self.head.targets}
        rows = {name: torch.from_numpy(step.rows[name]) for name in read}
        return self.head.loss(
            HeadBatch(
                {name: self.visible(name, tokens).to(device, torch.float32) for name, tokens in read.items()},
                {name: self.material.vectors[name][chosen].to(device) for name, chosen in rows.items()},
                step.groups,
                step.rows,
                step.done,
            )
        )

    def make_optimizer(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the head's optimiser."""
        return self.head.make_optimizer(groups)

    def bound_logit_scale(self) -> None:
        """Do nothing: a head has its own scale, if any."""
