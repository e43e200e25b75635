"""The six fusion operations: combinations of a modality's context vector with its tokens (LightCRL, arXiv 2403.04650).

Every operation maps tokens u [B, T, d], their mask [B, T] and the encoded context c [d] to tokens [B, T, d].
`neutral` is the constant to which the context is added at the start: 0 for an operation that a zero context leaves
unchanged, 1 for the product.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, ClassVar

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from lightcrl.registry import Table


class FusionOperation(nn.Module, ABC):
    """A fusion of tokens with a context vector, for a width `dim`."""

    neutral: ClassVar[float] = 0.0

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @abstractmethod
    def forward(self, tokens: Tensor, mask: Tensor, context: Tensor) -> Tensor:
        """Return tokens [B, T, d] from tokens, mask [B, T] and context [d]; masked tokens do not affect others."""


class Addition(FusionOperation):
    """DFE-1: u + c."""

    def forward(self, tokens: Tensor, mask: Tensor, context: Tensor) -> Tensor:
        return tokens + context


class Multiplication(FusionOperation):
    """DFE-2: u * c."""

    neutral = 1.0

    def forward(self, tokens: Tensor, mask: Tensor, context: Tensor) -> Tensor:
        return tokens * context


class Concatenation(FusionOperation):
    """DFE-3: u + MLP([u ; P c]), the context projected to 10 dimensions."""

    def __init__(self, dim: int, context_dim: int = 10) -> None:
        super().__init__(dim)
        self.project = nn.Linear(dim, context_dim)
        self.mlp = nn.Sequential(nn.Linear(dim + context_dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, dim))
        shrink(self.mlp[-1])

    def forward(self, tokens: Tensor, mask: Tensor, context: Tensor) -> Tensor:
        short = self.project(context).expand(*tokens.shape[:-1], -1)
        return tokens + self.mlp(torch.cat([tokens, short], -1))


class Attention(FusionOperation):
    """Attention of the context to the tokens: u + sum_t softmax_t(score(c, u_t)) value(u_t), one sum for all tokens."""

    @abstractmethod
    def score(self, tokens: Tensor, context: Tensor) -> Tensor:
        """Return scores [B, T] from tokens [B, T, d] and context [d]."""

    def value(self, tokens: Tensor) -> Tensor:
        """Return the attended values [B, T, d]: the tokens themselves."""
        return tokens

    def forward(self, tokens: Tensor, mask: Tensor, context: Tensor) -> Tensor:
        # -inf would give NaN in a row of padding only; 0 * inf is NaN too, so masked values must be zero.
        scores = self.score(tokens, context)
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        values = self.value(tokens).masked_fill(~mask.unsqueeze(-1), 0)
        return tokens + torch.einsum("bt,btd->bd", scores.softmax(-1), values).unsqueeze(1)


class AdditiveAttention(Attention):
    """DFE-4: Bahdanau's score w · tanh(Q c + K u) (arXiv 1409.0473, section 3.1), at a quarter of the width."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.query = nn.Linear(dim, dim // 4)
        self.key = nn.Linear(dim, dim // 4, bias=False)
        self.energy = nn.Linear(dim // 4, 1, bias=False)

    def score(self, tokens: Tensor, context: Tensor) -> Tensor:
        return self.energy(torch.tanh(self.query(context) + self.key(tokens))).squeeze(-1)


class GeneralAttention(Attention):
    """DFE-5: Luong's general score c · W u (arXiv 1508.04025, equation 8), over sqrt(d)."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.bilinear = nn.Linear(dim, dim, bias=False)

    def score(self, tokens: Tensor, context: Tensor) -> Tensor:
        return self.bilinear(tokens) @ context / math.sqrt(self.dim)


class ScaledDotProduct(Attention):
    """DFE-6: score Q c · K u / sqrt(d), values V u (arXiv 1706.03762, equation 1)."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.values = nn.Linear(dim, dim)
        shrink(self.values)

    def score(self, tokens: Tensor, context: Tensor) -> Tensor:
        return self.key(tokens) @ self.query(context) / math.sqrt(self.dim)

    def value(self, tokens: Tensor) -> Tensor:
        return self.values(tokens)


OPERATIONS: Table[type[FusionOperation]] = Table(
    "fusion operation",
    {
        "addition": "lightcrl.methods.fusion:Addition",
        "multiplication": "lightcrl.methods.fusion:Multiplication",
        "concatenation": "lightcrl.methods.fusion:Concatenation",
        "additive_attention": "lightcrl.methods.fusion:AdditiveAttention",
        "general_attention": "lightcrl.methods.fusion:GeneralAttention",
        "scaled_dot_product": "lightcrl.methods.fusion:ScaledDotProduct",
    },
)


def _known(name: str) -> str:
    if ":" not in name:
        OPERATIONS[name]
    return name


FusionName = Annotated[str, AfterValidator(_known)]
"""An option that names a fusion operation: a member of `OPERATIONS`, or the user's own class."""


@torch.no_grad()
def shrink(linear: nn.Module) -> None:
    """Scale down the initial contribution to the tokens, so that training begins near the linear map."""
    for parameter in linear.parameters():
        parameter.mul_(0.1)
