"""The condition of a generated item: an embedding and words, as one vector."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from lightcrl.heads.captioning.reader import Reader
from lightcrl.methods.dropout import Dropout
from lightcrl.tokens import TokenBatch, TokenSpec


class ConditionOptions(Protocol):
    """The options of a head that its condition depends on.

    Attributes:
        width: width of the condition.
        words: true to read the item's tokens beside its embedding.
        dropout: share of the condition set to zero in training.
        input_dropout: share of the encoder's features set to zero in training.
    """

    width: int
    words: bool
    dropout: float
    input_dropout: float


class Condition(nn.Module):
    """The embedding, projected, plus the projected tokens: a mean over kinds of tokens, and attention over a sequence.

    c = W e + mean over slots of U_s x_s + sum_t softmax_t(q · m_t) m_t     m_t: projected word t
    """

    def __init__(self, spec: TokenSpec, dim: int, options: ConditionOptions) -> None:
        super().__init__()
        self.embedding = nn.Linear(dim, options.width)
        self.reader = Reader(spec, 0, options.width, options.input_dropout, 0.0) if options.words else None
        self.query = nn.Parameter(torch.zeros(options.width)) if options.words else None
        self.dropout = Dropout(options.dropout)

    def forward(self, tokens: TokenBatch, embeddings: Tensor) -> Tensor:
        """Return conditions [B, width] of tokens [B, T, D] and embeddings [B, d]."""
        # A unit vector's features are small: they get the scale of the others.
        condition = self.embedding(layer_norm(embeddings, embeddings.shape[-1:]))
        if self.reader is not None and self.query is not None:
            memory = self.reader(tokens)
            scores = (memory.values @ self.query).float() / math.sqrt(len(self.query))
            shares = scores.masked_fill(~memory.mask, torch.finfo(torch.float32).min).softmax(1)
            condition = condition + (shares[..., None].to(memory.values.dtype) * memory.values).sum(1)
        return self.dropout(condition)

    def fit(self, tokens: TokenBatch) -> None:
        """Set statistics of features from a sample of the training split."""
        if self.reader is not None:
            self.reader.fit(tokens)


def column_means(tokens: TokenBatch, spec: TokenSpec) -> list[Tensor]:
    """Return every slot [B, D], and the mean of the sequence [B, D] if there is one."""
    values = tokens.filled(torch.float32)
    parts = [values[:, slot] for slot in range(spec.slots)]
    if spec.sequence:
        parts.append(tokens.places(spec.slots).to(values.device, torch.float32).mean())
    return parts
