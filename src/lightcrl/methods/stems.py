"""Stems, the projections of a modality's tokens, and the options of every method."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from lightcrl.methods.dropout import Dropout, DroppedShare
from lightcrl.tokens import TokenBatch, TokenSpec


class MethodOptions(BaseModel):
    """Options of every method; the `[method]` table of a recipe is `name` and these keys.

    Attributes:
        dim: d, width of the embedding.
        input_dropout: share of input features set to zero in training. `"auto"` follows the data (`Dropout.follow`).
        standardise: scaling of every input feature to mean 0, and of the features of a slot to a mean square of 1, with
            statistics of the training split. A common scale for the features of a slot keeps the encoder's geometry.
        by_slot: a separate projection for every slot (a layer's pool); false shares a single projection.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dim: int = Field(default=256, gt=0)
    input_dropout: DroppedShare = "auto"
    standardise: bool = True
    by_slot: bool = True


class Inlet(nn.Module):
    """The input of a modality: its features on a common scale, with input dropout in training.

    Attributes:
        mean: mean of each feature, [S, D] for S slots.
        deviation: divisor of the features of each slot, [S, P] for P parts. For the first part it is the slot's own
            deviation, for the last part that of all slots together, and between them their weighted geometric mean.
            Of checkpoints before format 5, [S, 1]: the same for all parts.
    """

    sized: ClassVar[tuple[str, ...]] = ("deviation",)
    mean: Tensor
    deviation: Tensor

    def __init__(self, spec: TokenSpec, options: MethodOptions, parts: int = 1) -> None:
        super().__init__()
        self.spec = spec
        self.slots = spec.slots if options.by_slot else 1
        self.dropout = Dropout(options.input_dropout)
        self.register_buffer("mean", torch.zeros(self.slots, spec.dim))
        self.register_buffer("deviation", torch.ones(self.slots, parts))

    @property
    def width(self) -> int:
        """F, the number of features per item in `features`."""
        return self.slots * self.spec.dim

    def standardised(self, tokens: TokenBatch) -> Tensor:
        """Return tokens [B, T, D] as the first part sees them, each slot at its own scale, without dropout."""
        # Padding may contain NaN, which stays NaN when multiplied by zero, in attention and in gradients.
        values = tokens.filled(self.mean.dtype) if self.slots == 1 else tokens.values.to(self.mean.dtype)
        return (values - self.mean) / self.deviation[:, :1]

    def features(self, tokens: TokenBatch) -> Tensor:
        """Return a vector per item, [B, T, D] -> [B, F], without dropout: concatenated slots, or the mean token."""
        values = self.standardised(tokens)
        return values.flatten(1) if self.slots > 1 else TokenBatch(values, tokens.mask).mean()

    @torch.no_grad()
    def fit(self, tokens: TokenBatch) -> None:
        """Set each feature's mean and each slot's deviations from `tokens`."""
        if self.slots == 1:
            values = tokens.values[tokens.mask].float().unsqueeze(1)
        else:
            values = tokens.values.float()
        self.mean.copy_(values.mean(0))
        deviation = values.var(0, correction=0).mean(-1, keepdim=True).sqrt()
        # A constant slot has no information; division by its deviation would amplify noise.
        deviation = torch.where(deviation > 1e-6, deviation, 1.0)
        together = deviation.square().mean().sqrt()
        share = torch.linspace(0, 1, self.deviation.shape[1], device=deviation.device)
        self.deviation.copy_(deviation * (together / deviation) ** share)


class Stem(Inlet):
    """The projection D -> d of every token, the only weights of a single modality.

    Each slot has its own projection. The mean over tokens of these projections is one linear map of the concatenated
    slots.
    """

    def __init__(self, spec: TokenSpec, options: MethodOptions, width: int | None = None, parts: int = 1) -> None:
        """Make a stem to `width` features (default `options.dim`) in `parts`, each with its own dropout and scale."""
        super().__init__(spec, options, parts)
        width = options.dim if width is None else width
        self.parts = parts
        self.weight = nn.Parameter(torch.empty(self.slots, spec.dim, width))
        self.bias = nn.Parameter(torch.zeros(self.slots, width))
        bound = 1 / math.sqrt(spec.dim)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, tokens: TokenBatch) -> Tensor:
        """Return [B, T, d] from [B, T, D]; T is the number of slots if there are several."""
        values, parts = self.standardised(tokens), self.projection.chunk(self.parts, -1)
        if self.slots == 1:
            projected = [self.dropout(values) @ part[0] for part in parts]
        else:
            projected = [torch.einsum("btd,tdk->btk", self.dropout(values), part) for part in parts]
        return torch.cat(projected, -1) + self.bias

    @property
    def projection(self) -> Tensor:
        """The projection [S, D, d] of standardised features: the weight of each part, times the part's scale."""
        return self.weight if self.deviation.shape[1] == 1 else self.weight * self._scale

    @torch.no_grad()
    def set_projection(self, projection: Tensor) -> None:
        """Set the weight so that `projection` is this one, [S, D, d]."""
        self.weight.copy_(projection / self._scale)

    @property
    def _scale(self) -> Tensor:
        """The scale [S, 1, d] of a slot in each part, where that of a standardised slot is 1."""
        columns = self.weight.shape[-1] // self.deviation.shape[1]
        return (self.deviation[:, :1] / self.deviation).repeat_interleave(columns, 1)[:, None]
