"""Cross-attention between the tokens of two items: aligned tokens in, features of the pair out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from lightcrl.methods.attention_pool import SequencePool
from lightcrl.methods.base import Method
from lightcrl.methods.dropout import Dropout
from lightcrl.methods.stems import Stem
from lightcrl.tokens import TokenBatch, TokenSpec


class AlignedTokens(nn.Module):
    """A projection D -> w of every token of a modality: one for each slot, and one for the sequence.

    Started from the stem and the pool of a space (`start`), tokens of different modalities are comparable before the
    first step: from random weights, attention between them learns nothing in some hundred steps (docs/heads.md).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, spec: TokenSpec, width: int, dropout: float) -> None:
        super().__init__()
        self.spec = spec
        # The last kind of token is the sequence; slots without a sequence have no such kind.
        self.slots = spec.slots if spec.sequence or spec.slots > 1 else 0
        self.kinds = self.slots + (spec.sequence or not self.slots)
        self.dropout = Dropout(dropout)
        self.aligned = False
        self.register_buffer("mean", torch.zeros(self.kinds, spec.dim))
        self.register_buffer("deviation", torch.ones(self.kinds, 1))
        self.weight = nn.Parameter(torch.randn(self.kinds, spec.dim, width) / math.sqrt(spec.dim))
        self.bias = nn.Parameter(torch.zeros(self.kinds, width))

    def forward(self, tokens: TokenBatch) -> TokenBatch:
        """Return tokens [B, T, w] of zero mean and unit variance each."""
        values = tokens.filled(self.weight.dtype)
        parts = []
        if self.slots:
            slots = self.dropout((values[:, : self.slots] - self.mean[: self.slots]) / self.deviation[: self.slots])
            parts.append(torch.einsum("btd,tdw->btw", slots, self.weight[: self.slots]) + self.bias[: self.slots])
        if self.kinds > self.slots:
            rest = self.dropout((values[:, self.slots :] - self.mean[-1]) / self.deviation[-1])
            parts.append(rest @ self.weight[-1] + self.bias[-1])
        projected = layer_norm(torch.cat(parts, 1), self.bias.shape[-1:])
        return TokenBatch(projected, tokens.mask)

    @torch.no_grad()
    def fit(self, tokens: TokenBatch) -> None:
        """Set means and deviations from `tokens`, unless those of the space are there."""
        if self.aligned:
            return
        for kind in range(self.kinds):
            place = tokens.places(kind, kind + 1) if kind < self.slots else tokens.places(self.slots)
            values = place.values[place.mask].float()
            self.mean[kind] = values.mean(0)
            deviation = values.var(0, correction=0).mean().sqrt()
            self.deviation[kind] = torch.where(deviation > 1e-6, deviation, 1.0)

    @torch.no_grad()
    def start(self, method: Method, modality: str, rotation: Tensor) -> None:
        """Take the projections of a space's stem and pool, reduced by `rotation` [d, w]; random where it has none."""
        stem, pools = method.stem(modality), dict(getattr(method, "pools", {}))
        pool = pools.get(modality)
        if isinstance(stem, Stem) and stem.weight.shape[-1] == len(rotation):
            slots = min(stem.slots, self.kinds)
            self._set(slice(0, slots), stem.projection[:slots], stem.bias[:slots], stem.mean[:slots], rotation)
            self.deviation[:slots] = stem.deviation[:slots, :1]
            self.aligned = slots == self.kinds
        if isinstance(pool, SequencePool) and pool.weight.shape[0] * pool.weight.shape[2] == len(rotation):
            weight = pool.weight.permute(1, 0, 2).flatten(1)
            self._set(slice(self.kinds - 1, None), weight[None], pool.bias[None], pool.mean[None], rotation)
            self.deviation[-1] = pool.deviation
            self.aligned = True

    def _set(self, kinds: slice, weight: Tensor, bias: Tensor, mean: Tensor, rotation: Tensor) -> None:
        rotation = rotation.to(weight)  # the space may lie on another device than a head that is not yet trained
        self.weight[kinds], self.bias[kinds], self.mean[kinds] = weight @ rotation, bias @ rotation, mean


class Crossing(nn.Module):
    """Attention of one item's tokens to another item's, and features of what each token attends to.

    c_t = sum_s softmax_s(x_t · y_s) y_s     in heads; queries and keys are the tokens themselves at the start
    f = mean_t GELU(U x_t + V c_t + W (x_t * c_t))
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.eye(width) * math.sqrt(2))
        self.key = nn.Parameter(torch.eye(width) * math.sqrt(2))
        self.own = nn.Linear(width, hidden)
        self.attended = nn.Linear(width, hidden, bias=False)
        self.product = nn.Linear(width, hidden, bias=False)

    def ask(self, tokens: TokenBatch) -> tuple[Tensor, Tensor]:
        """Return queries [N, T, w] and the hidden part of the tokens themselves [N, T, h], once per item."""
        return tokens.values @ self.query, self.own(tokens.values)

    def answer(self, tokens: TokenBatch) -> Tensor:
        """Return keys [N, S, w], once per item."""
        return tokens.values @ self.key / math.sqrt(self.key.shape[1] // self.heads)

    def forward(self, tokens: TokenBatch, asked: tuple[Tensor, Tensor], others: TokenBatch, keys: Tensor) -> Tensor:
        """Return features [P, h] of P pairs of items.

        Args:
            tokens: tokens [P, T, w] that attend.
            asked: their queries and hidden parts, from `ask`.
            others: tokens [P, S, w] that are attended to.
            keys: their keys [P, S, w], from `answer`.
        """
        pairs, _, width = tokens.values.shape
        split = (pairs, -1, self.heads, width // self.heads)
        query, key, value = (each.view(split).transpose(1, 2) for each in (asked[0], keys, others.values))
        scores = (query @ key.mT).masked_fill(~others.mask[:, None, None], torch.finfo(keys.dtype).min)
        attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        hidden = asked[1] + self.attended(attended) + self.product(tokens.values * attended)
        return TokenBatch(nn.functional.gelu(hidden), tokens.mask).mean()
