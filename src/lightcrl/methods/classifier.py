"""A linear classifier on any method's embedding, for fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from lightcrl.losses import Loss
from lightcrl.methods.base import Method, Step
from lightcrl.methods.stems import Inlet, MethodOptions
from lightcrl.tokens import TokenBatch, TokenSpec

NAME = "lightcrl.methods.classifier:Classifier"
"""The name in checkpoints, a literal because files contain it. It is not in `METHODS`, since it embeds nothing."""


class ClassifierOptions(MethodOptions):
    """Options of the classifier.

    Attributes:
        method: the wrapped method, a member of `METHODS`.
        below: options of the wrapped method.
        classes: names of the classes.
    """

    standardise: bool = False
    input_dropout: float = Field(default=0.0, ge=0, lt=1)
    method: str
    below: dict[str, Any]
    classes: tuple[str, ...] = Field(min_length=2)


class Classifier(Method):
    """logits = W f + b, f the trained part of the method's embedding as a unit vector, scaled to a mean square of 1.

    The wrapped method is trained too. A part of an embedding without gradient, such as the DFE's canonical part, is
    omitted.

    Attributes:
        body: the wrapped method.
        labels: [G] class numbers of the groups of the training split; not part of a checkpoint.
    """

    Options: ClassVar[type[MethodOptions]] = ClassifierOptions
    options: ClassifierOptions
    suits: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-3, "label_smoothing": 0.0}
    rigid: ClassVar[str] = "it gives the logits of classes, not embeddings"
    labels: Tensor

    def __init__(self, modalities: Mapping[str, TokenSpec], options: ClassifierOptions) -> None:
        from lightcrl.methods import METHODS

        super().__init__(modalities, options)
        kind = METHODS.load(options.method)
        self.body = kind(modalities, kind.Options.model_validate(options.below))
        self.sequences = self.body.sequences
        self.body.logit_scale.requires_grad_(False)
        self.logit_scale.requires_grad_(False)
        self.head = nn.Linear(self.body.trained_dim, len(options.classes))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.long), persistent=False)

    @property
    def dim(self) -> int:
        """C, the number of classes."""
        return len(self.options.classes)

    def make_stem(self, modality: str) -> Inlet:
        """Return an inlet: the wrapped method has the stems."""
        return Inlet(TokenSpec(1), self.options)

    def embed(self, modality: str, tokens: TokenBatch) -> Tensor:
        """Return logits [B, C]."""
        vectors = self.body.embed(modality, tokens)[:, : self.body.trained_dim]
        logits: Tensor = self.head(normalize(vectors.float(), dim=-1) * self.body.trained_dim**0.5)
        return logits

    def finish(self, vectors: Tensor) -> Tensor:
        """Return logits [B, C] unchanged: they are no embedding."""
        return vectors

    def objective(self, loss: Loss, embeddings: Mapping[str, Tensor], step: Step) -> Tensor:
        """Return the cross-entropy of the items' labels; `loss` is for pairs and is ignored."""
        values = [cross_entropy(logits, self.labels[step.groups[name]]) for name, logits in embeddings.items()]
        return torch.stack(values).mean()

    def bound_logit_scale(self) -> None:
        """Do nothing: a classifier has no logit scale."""
