"""The prior as a flow: a path from noise to the target, told of the item."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, silu

from lightcrl.heads.condition import Condition
from lightcrl.heads.flow import FREQUENCIES, draw_times, encode_times, flow_loss, guided, integrate
from lightcrl.heads.prior.model import PriorModel
from lightcrl.tokens import TokenBatch, TokenSpec

if TYPE_CHECKING:
    from lightcrl.heads.prior.head import PriorOptions

MIDDLE = -0.4
"""Middle of the times of training, before the logistic function: more of them near the noise."""


class Flow(PriorModel):
    """Residual blocks on a place of the path, modulated by its time and the item's condition."""

    guided: ClassVar[bool] = True

    def __init__(self, spec: TokenSpec, dim: int, out: int, options: PriorOptions) -> None:
        super().__init__(spec, dim, out, options)
        width = options.width
        self.hidden = options.unconditional
        self.condition = Condition(spec, dim, options)
        self.nothing = nn.Parameter(torch.randn(width) * 0.02)
        self.time = nn.Linear(2 * FREQUENCIES, width)
        self.entry = nn.Linear(out, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(options.blocks))
        self.end = nn.Linear(width, out)
        # The best prediction of a linear network is a map of the condition alone.
        self.direct = nn.Linear(width, out, bias=False)

    def fit(self, tokens: TokenBatch) -> None:
        self.condition.fit(tokens)

    def loss(self, tokens: TokenBatch, embeddings: Tensor, targets: Tensor) -> Tensor:
        condition = self.condition(tokens, embeddings)
        hidden = torch.rand(len(targets), 1).to(targets.device) < self.hidden
        condition = torch.where(hidden, self.nothing.to(condition.dtype), condition)
        times = draw_times(len(targets), MIDDLE).to(targets.device)
        return flow_loss(lambda places, at: self._predict(places, at, condition), targets, times)

    def generate(self, tokens: TokenBatch, embeddings: Tensor, noise: Tensor, guidance: float, steps: int) -> Tensor:
        condition = self.condition(tokens, embeddings).repeat_interleave(noise.shape[1], 0)
        nothing = self.nothing.expand_as(condition)
        predict = guided(
            lambda places, times: self._predict(places, times, condition),
            lambda places, times: self._predict(places, times, nothing),
            guidance,
        )
        return integrate(predict, noise.flatten(0, 1), steps).view_as(noise)

    def _predict(self, places: Tensor, times: Tensor, condition: Tensor) -> Tensor:
        told = silu(condition + self.time(encode_times(times)))
        values = self.entry(places)
        for block in self.blocks:
            values = block(values, told)
        return self.end(layer_norm(values, values.shape[-1:])) + self.direct(condition)


class _Block(nn.Module):
    """A residual feed-forward block whose norm is shifted and scaled by the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.told = nn.Linear(width, 3 * width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, values: Tensor, told: Tensor) -> Tensor:
        shift, scale, gate = self.told(told).chunk(3, -1)
        inner = layer_norm(values, values.shape[-1:]) * (1 + scale) + shift
        return values + gate * self.narrow(gelu(self.wide(inner)))
