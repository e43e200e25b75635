"""Priors without randomness: ridge regression, and a small network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, mse_loss, normalize

from lightcrl.heads.condition import Condition, column_means
from lightcrl.heads.prior.model import Batches, PriorModel
from lightcrl.tokens import TokenBatch, TokenSpec

if TYPE_CHECKING:
    from lightcrl.heads.prior.head import PriorOptions

STRENGTHS = tuple(10.0**power for power in range(-5, 3))
"""Regularisation strengths to choose from, in units of the mean variance of a feature."""


class Ridge(PriorModel):
    """Ridge regression on the embedding and, with `words`, the mean of every kind of token.

        W = (X'X + r I)⁻¹ X'Y     X: centred features [N, p]; r: strength, chosen by the mean cosine on dev

    Each kind of token, and the embedding, has the same total variance.

    Attributes:
        weight: [p, out].
        offset: means of the features, [p].
        scale: factors of the features, [p].
    """

    closed_form: ClassVar[bool] = True
    weight: Tensor
    offset: Tensor
    scale: Tensor

    def __init__(self, spec: TokenSpec, dim: int, out: int, options: PriorOptions) -> None:
        super().__init__(spec, dim, out, options)
        self.spec, self.words = spec, options.words
        kinds = spec.slots + spec.sequence if options.words else 0
        self.widths = [dim, *[spec.dim] * kinds]
        for name, shape in (("weight", (sum(self.widths), out)), ("offset", (sum(self.widths),))):
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("scale", torch.ones(sum(self.widths)))

    def fit(self, tokens: TokenBatch) -> None:
        """Do nothing: `learn` sees all pairs."""

    def learn(self, train: Batches, dev: Batches) -> None:
        """Solve for every strength, and keep the best on dev."""
        width, out = self.weight.shape
        shapes = ((width,), (width, width), (width, out))
        sums, moments, products = (torch.zeros(shape, dtype=torch.float64) for shape in shapes)
        count = 0
        for tokens, embeddings, targets in train():
            rows = self._columns(tokens, embeddings).double()
            count += len(rows)
            sums += rows.sum(0)
            moments += rows.T @ rows
            products += rows.T @ targets.double()
        mean = sums / count
        covariance = moments / count - mean[:, None] * mean
        scale = torch.cat([_block_scale(part) for part in torch.split(covariance.diagonal(), self.widths)])
        covariance *= scale[:, None] * scale
        # Targets have zero mean up to the sample from which their statistics come.
        target = products / count * scale[:, None]
        self.offset.copy_(mean)
        self.scale.copy_(scale)
        values, axes = torch.linalg.eigh(covariance)
        turned, level = axes.T @ target, float(values.mean())
        best = -math.inf
        for strength in STRENGTHS:
            weight = (axes @ (turned / (values.clamp(min=0) + strength * level)[:, None])).to(self.weight)
            if (score := self._score(weight, dev)) > best:
                best = score
                self.weight.copy_(weight)

    def loss(self, tokens: TokenBatch, embeddings: Tensor, targets: Tensor) -> Tensor:
        """Return zero: there is nothing to train."""
        return embeddings.new_zeros(())

    def generate(self, tokens: TokenBatch, embeddings: Tensor, noise: Tensor, guidance: float, steps: int) -> Tensor:
        return self._predict(self.weight, tokens, embeddings)[:, None].expand_as(noise)

    def _columns(self, tokens: TokenBatch, embeddings: Tensor) -> Tensor:
        parts = column_means(tokens, self.spec) if self.words else []
        return torch.cat([embeddings, *parts], 1)

    def _predict(self, weight: Tensor, tokens: TokenBatch, embeddings: Tensor) -> Tensor:
        return ((self._columns(tokens, embeddings) - self.offset) * self.scale) @ weight

    def _score(self, weight: Tensor, dev: Batches) -> float:
        cosines = [
            (normalize(self._predict(weight, tokens, embeddings), dim=1) * normalize(targets, dim=1)).sum(1)
            for tokens, embeddings, targets in dev()
        ]
        return float(torch.cat(cosines).mean())


def _block_scale(variances: Tensor) -> Tensor:
    total = variances.sum()
    return (1 / total.sqrt() if total > 1e-12 else total.new_zeros(())).expand(len(variances))


class Mlp(PriorModel):
    """A linear map of the condition plus two layers, trained on squared errors."""

    def __init__(self, spec: TokenSpec, dim: int, out: int, options: PriorOptions) -> None:
        super().__init__(spec, dim, out, options)
        self.condition = Condition(spec, dim, options)
        self.direct = nn.Linear(options.width, out)
        self.wide, self.narrow = nn.Linear(options.width, 2 * options.width), nn.Linear(2 * options.width, out)
        nn.init.zeros_(self.narrow.weight)

    def fit(self, tokens: TokenBatch) -> None:
        self.condition.fit(tokens)

    def loss(self, tokens: TokenBatch, embeddings: Tensor, targets: Tensor) -> Tensor:
        return mse_loss(self._predict(tokens, embeddings).float(), targets)

    def generate(self, tokens: TokenBatch, embeddings: Tensor, noise: Tensor, guidance: float, steps: int) -> Tensor:
        return self._predict(tokens, embeddings)[:, None].expand_as(noise)

    def _predict(self, tokens: TokenBatch, embeddings: Tensor) -> Tensor:
        condition = self.condition(tokens, embeddings)
        return self.direct(condition) + self.narrow(gelu(self.wide(condition)))
