"""STRUCTURE (arXiv 2506.16895): a linear map that preserves each modality's neighbourhoods."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from lightcrl.losses import Loss
from lightcrl.methods.base import Step
from lightcrl.methods.linear import Linear
from lightcrl.methods.stems import MethodOptions


class StructureOptions(MethodOptions):
    """Options of STRUCTURE.

    Attributes:
        structure_weight: lambda, weight of the neighbourhood term relative to the loss; the paper's 10.
        structure_warmup: share of all steps in which lambda rises from 0; the paper's 1,000 steps.
        temperature: fixed temperature of neighbourhoods and of InfoNCE; the paper's 0.05. Null learns InfoNCE's
            temperature and keeps 0.05 for the neighbourhoods.
    """

    structure_weight: float = Field(default=10.0, ge=0)
    structure_warmup: float = Field(default=0.1, ge=0, le=1)
    temperature: float | None = Field(default=0.05, gt=0.01)


class Structure(Linear):
    """e = normalize(W x) under loss + lambda mean_m JS(P(x_m), P(e_m)), P the neighbourhoods within a batch.

    As published: unit vectors centred over the batch, the similarity of an item to itself among the others, one level,
    the mean over modalities, the temperature, lambda and its warm-up. Changed: the divergence is exactly Jensen and
    Shannon's; x are the features that the stem sees, all layers of `auto`, where the paper chooses the layer on which
    the modalities agree best. The paper's figures are those of larger encoders and were not reproduced.
    """

    Options: ClassVar[type[MethodOptions]] = StructureOptions
    suits: ClassVar[Mapping[str, Any]] = {"label_smoothing": 0.0}
    # A lower weight of the neighbourhoods; the same with the learnable scale of the other methods.
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"structure_weight": 1.0},
        {"structure_weight": 1.0, "temperature": None},
    )
    one_process: ClassVar[bool] = True
    options: StructureOptions

    def start_logits(self, scale: float, bias: float | None) -> None:
        """Set the initial logit scale and bias; a fixed temperature is not changed."""
        super().start_logits(scale, bias)
        if self.options.temperature is not None:
            self.fix_scale(self.options.temperature)

    def objective(self, loss: Loss, embeddings: Mapping[str, Tensor], step: Step) -> Tensor:
        """Return the loss plus the weighted divergence of the neighbourhoods."""
        contrast = super().objective(loss, embeddings, step)
        weight = self.options.structure_weight * min(1.0, step.done / max(self.options.structure_warmup, 1e-9))
        if weight == 0:
            return contrast
        temperature = self.options.temperature or 0.05
        moved = [
            divergence(
                log_neighbourhoods(normalize(self.stem(name).features(step.tokens[name]), dim=-1), temperature),
                log_neighbourhoods(vectors.float(), temperature),
            )
            for name, vectors in embeddings.items()
            if name in step.tokens and len(vectors) > 2
        ]
        return contrast + weight * torch.stack(moved).mean() if moved else contrast


def log_neighbourhoods(vectors: Tensor, temperature: float) -> Tensor:
    """Return log P [N, N] of unit vectors [N, d]: row i is the softmax over j of <x_i, x_j> / temperature, centred."""
    centred = vectors - vectors.mean(0)
    return (centred @ centred.T / temperature).log_softmax(-1)


def divergence(left: Tensor, right: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of distributions [N, K], given as logarithms, in nats, averaged over N."""
    middle = torch.logaddexp(left, right) - math.log(2)
    parts = [(log.exp() * (log - middle)).sum(-1).mean() for log in (left, right)]
    return (parts[0] + parts[1]) / 2
