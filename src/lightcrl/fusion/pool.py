"""Attention pooling: one vector from the words of a text, the patches of a picture, the segments of a sound."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightcrl.tokens import TokenBatch


class SequencePool(nn.Module):
    """Several heads, each looking for something else in the sequence, and a projection of what each has found.

        a_h = softmax_t(q_h · x_t)          q_h: learnable, one per head
        p = [W_1 y_1 ; ... ; W_H y_H]       y_h = sum_t a_ht x_t, standardised

    This is multi-head attention with fixed queries (Set Transformer, arXiv 1810.00825, equation 11) whose keys are the
    features themselves: H x D weights decide where to look, too few to overfit on a thousand groups.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, dim: int, heads: int, dropout: float, parts: int = 1) -> None:
        super().__init__()
        self.parts = parts
        self.query = nn.Parameter(torch.randn(heads, features) * 0.02)
        bound = 1 / math.sqrt(features)
        self.weight = nn.Parameter(torch.empty(heads, features, dim // heads).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(()))

    def forward(self, tokens: TokenBatch) -> Tensor:
        """[B, T, D] -> [B, d]. An item of no tokens has zeros in place of what was found."""
        values = tokens.values.masked_fill(~tokens.mask.unsqueeze(-1), 0).to(self.query.dtype)
        # The mean shifts all scores of a head alike, so standardising can wait until there is one vector a head.
        scores = values @ (self.query / self.deviation).T
        scores = scores.float().masked_fill(~tokens.mask.unsqueeze(-1), torch.finfo(torch.float32).min)
        shares = scores.softmax(1).masked_fill(~tokens.mask.unsqueeze(-1), 0)
        found = shares.to(values.dtype).mT @ values - self.mean
        found = found.masked_fill(~tokens.mask.any(1)[:, None, None], 0)
        # The heads of a part drop the same features.
        kept = self.dropout(found.new_ones(len(found), self.parts, found.shape[-1])) / self.deviation
        kept = kept.repeat_interleave(found.shape[1] // self.parts, 1)
        return torch.einsum("bhd,hdk->bhk", found * kept, self.weight).flatten(1) + self.bias

    @torch.no_grad()
    def fit(self, tokens: TokenBatch) -> None:
        """Take each feature's mean and the mean deviation of all from `tokens`."""
        values = tokens.values[tokens.mask].float()
        self.mean.copy_(values.mean(0))
        deviation = values.var(0, correction=0).mean().sqrt()
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, 1.0))
