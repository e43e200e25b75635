"""Attention pooling: a vector from the words of a text, the patches of a picture or the segments of a sound."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightcrl.methods.dropout import Dropout, DroppedShare
from lightcrl.tokens import TokenBatch


class SequencePool(nn.Module):
    """Several attention heads over the sequence, and a projection of their outputs.

        a_h = softmax_t(q_h · x_t)          q_h: learnable, one per head
        p = [W_1 y_1 ; ... ; W_H y_H]       y_h = sum_t a_ht x_t, standardised

    This is multi-head attention with fixed queries (Set Transformer, arXiv 1810.00825, equation 11) whose keys are the
    features themselves: H x D weights choose the positions, too few to overfit a thousand groups.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, dim: int, heads: int, dropout: DroppedShare, parts: int = 1) -> None:
        """Make a pool of `heads` heads; each of `parts` equal parts of the heads has its own dropout."""
        super().__init__()
        self.parts = parts
        self.query = nn.Parameter(torch.randn(heads, features) * 0.02)
        bound = 1 / math.sqrt(features)
        self.weight = nn.Parameter(torch.empty(heads, features, dim // heads).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.dropout = Dropout(dropout)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(()))

    def forward(self, tokens: TokenBatch) -> Tensor:
        """Return [B, d] from tokens [B, T, D]; the bias for an item without tokens."""
        # These are the largest tensors of a step: they are cast once and not copied again.
        dtype = compute_dtype(self.query)
        hidden = ~tokens.mask.unsqueeze(-1)
        values = tokens.filled(dtype)
        # The mean shifts all scores of a head equally, so standardisation can follow the pooling.
        scores = (values @ (self.query / self.deviation).to(dtype).T).float()
        shares = scores.masked_fill(hidden, torch.finfo(torch.float32).min).softmax(1)
        pooled = shares.to(dtype).mT @ values - self.mean.to(dtype)
        items, _, width = pooled.shape
        kept = self.dropout.mask((items, self.parts, 1, width), pooled) / self.deviation.to(dtype)
        kept = kept * tokens.mask.any(1)[:, None, None, None]
        pooled = (pooled.view(items, self.parts, -1, width) * kept).flatten(1, 2)
        # Heads first and contiguous: the gradient of `weight` takes ten times as long with a strided view.
        pooled = pooled.transpose(0, 1).contiguous()
        return (pooled @ self.weight.to(dtype)).transpose(0, 1).flatten(1) + self.bias

    @torch.no_grad()
    def fit(self, tokens: TokenBatch) -> None:
        """Set each feature's mean and the mean deviation of all features from `tokens`."""
        values = tokens.values[tokens.mask].float()
        self.mean.copy_(values.mean(0))
        deviation = values.var(0, correction=0).mean().sqrt()
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, 1.0))


def compute_dtype(weight: Tensor) -> torch.dtype:
    """Return the dtype of products with `weight`: autocast's dtype if autocast is on."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
