"""Methods that train new modalities towards a frozen space, in which old modalities are embeddings."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from itertools import combinations
from typing import ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from lightcrl.errors import TrainingError
from lightcrl.losses import Loss
from lightcrl.methods.base import Method, Step
from lightcrl.methods.hubs import Hubs
from lightcrl.methods.stems import MethodOptions
from lightcrl.tokens import TokenBatch


class JoiningOptions(MethodOptions):
    """Options of a method that joins a frozen space.

    Attributes:
        fresh: names of the new modalities.
        weights: weights of pairs with the embeddings of these names; by default 1.
    """

    fresh: tuple[str, ...] = Field(min_length=1)
    weights: dict[str, float] = Field(default_factory=dict)


class Joining(Method):
    """A method of new modalities; tokens [N, 1, d] of an old one are its embeddings, which never change.

    Training therefore needs neither old items nor their encoder.
    """

    Options: ClassVar[type[MethodOptions]] = JoiningOptions
    options: JoiningOptions

    @abstractmethod
    def embed_new(self, modality: str, tokens: TokenBatch) -> Tensor:
        """Return vectors [B, d] of a new modality."""

    @abstractmethod
    def fit_new(self, modality: str, tokens: TokenBatch) -> None:
        """Set means and deviations of a new modality's features."""

    @abstractmethod
    def align(self, loss: Loss, pair: Mapping[str, Tensor], step: Step) -> Tensor:
        """Return the scalar to minimise of two modalities, from their embeddings [N_m, d]."""

    def embed(self, modality: str, tokens: TokenBatch) -> Tensor:
        """Return vectors [B, d]; those of an old modality are its tokens [B, 1, d]."""
        return self.embed_new(modality, tokens) if modality in self.options.fresh else tokens.values[:, 0]

    def corrected(self, modality: str, vectors: Tensor, hubs: Hubs) -> Tensor:
        """Return vectors [B, d] of a new modality corrected as the model does; those of an old one are already."""
        return super().corrected(modality, vectors, hubs) if modality in self.options.fresh else vectors

    def fit(self, modality: str, tokens: TokenBatch) -> None:
        """Set means and deviations of a new modality's features; old modalities have none."""
        if modality in self.options.fresh:
            self.fit_new(modality, tokens)

    def objective(self, loss: Loss, embeddings: Mapping[str, Tensor], step: Step) -> Tensor:
        """Return the scalar to minimise, from embeddings [N_m, d]: the weighted mean over pairs with a new modality.

        Raises:
            TrainingError: no new modality shares a group with another in this batch.
        """
        fresh, weights = set(self.options.fresh), self.options.weights
        total, mass = self.scale.new_zeros(()), 0.0
        for a, b in combinations(sorted(embeddings), 2):
            weight = weights.get(a, 1.0) * weights.get(b, 1.0)
            if weight and fresh & {a, b} and torch.isin(step.groups[a], step.groups[b]).any():
                pair = {a: embeddings[a], b: embeddings[b]}
                total, mass = total + weight * self.align(loss, pair, step), mass + weight
        if not mass:
            raise TrainingError("no new modality shares a group with another in this batch; expected groups with both.")
        return total / mass

    def joined_to(self, space: Method) -> Self:
        """Return this method with the correction for hubs of the space that it joins, on its device."""
        self.hubs = deepcopy(space.hubs)
        return self.to(space.logit_scale.device)
