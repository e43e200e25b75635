"""The reading of an item's tokens: standardised features, projected to the width of a decoder's memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from lightcrl.methods.dropout import Dropout
from lightcrl.tokens import TokenBatch, TokenSpec


class Reader(nn.Module):
    """Slots with a projection each, the sequence with one for all of its tokens, and the embedding as one token more.

    Padding is never read. Features are standardised by the statistics of a sample of the training split (`fit`).

    Attributes:
        spec: shape of the tokens.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, spec: TokenSpec, dim: int, width: int, dropout: float, hidden: float) -> None:
        """Make a reader.

        Args:
            spec: shape of the tokens.
            dim: width of the space's embeddings; 0 leaves them out.
            width: width of the memory.
            dropout: share of features set to zero in training.
            hidden: share of tokens of a sequence that are hidden in training.
        """
        super().__init__()
        self.spec = spec
        self.slots = spec.slots if spec.sequence or spec.slots > 1 else 0
        self.kinds = self.slots + (spec.sequence or not self.slots)
        self.register_buffer("mean", torch.zeros(self.kinds, spec.dim))
        self.register_buffer("deviation", torch.ones(self.kinds, 1))
        bound = 1 / math.sqrt(spec.dim)
        self.weight = nn.Parameter(torch.empty(self.kinds, spec.dim, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(self.kinds, width))
        self.embedding = nn.Linear(dim, width) if dim else None
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.hidden = hidden

    def forward(self, tokens: TokenBatch, embeddings: Tensor | None = None) -> TokenBatch:
        """Return the memory [B, T, width] of tokens [B, T, D] and embeddings [B, d]."""
        values, mask = tokens.filled(torch.float32), tokens.mask
        kinds = torch.arange(values.shape[1], device=values.device).clamp(max=self.kinds - 1)
        values = self.dropout((values - self.mean[kinds]) / self.deviation[kinds])
        parts = [torch.einsum("btd,tdk->btk", values[:, : self.slots], self.weight[: self.slots])] if self.slots else []
        if self.kinds > self.slots:
            parts.append(values[:, self.slots :] @ self.weight[-1])
        memory = torch.cat(parts, 1) + self.bias[kinds]
        if self.training and self.hidden and self.kinds > self.slots:
            drawn = torch.rand(mask.shape, device=mask.device) >= self.hidden
            drawn[:, : max(self.slots, 1)] = True  # an item keeps at least one token
            mask = mask & drawn
        if self.embedding is not None and embeddings is not None:
            # A unit vector's features are small: they get the scale of the others.
            own = self.embedding(layer_norm(embeddings, embeddings.shape[-1:]))
            memory = torch.cat([self.dropout(own)[:, None], memory], 1)
            mask = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
        return TokenBatch(self.norm(memory), mask)

    @torch.no_grad()
    def fit(self, tokens: TokenBatch) -> None:
        """Set means and deviations from a sample of the training split."""
        for kind in range(self.kinds):
            last = None if kind == self.kinds - 1 else kind + 1
            part = tokens.places(kind, last)
            values = part.values[part.mask].float()
            self.mean[kind] = values.mean(0)
            deviation = values.var(0, correction=0).mean().sqrt()
            self.deviation[kind] = deviation if deviation > 1e-6 else 1.0
