"""Dropout with cheap masks: on a CPU, drawing a random number per feature takes longer than multiplying by it."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

DroppedShare = Annotated[float, Field(ge=0, lt=1)] | Literal["auto"]
"""Share of features set to zero in training; `"auto"` follows the data (`Dropout.follow`)."""
LEVELS = 256
# Of a share that follows the data, and the number of steps from which it applies in full (docs/LOG.md).
STRENGTH = 2.5
STEPS = 400


class Dropout(nn.Module):
    """Dropout as in `torch.nn.Dropout`, with a random byte per feature: the dropped share is `p` to the nearest 1/256.

    Kept features are divided by the actual kept share, so that the mean stays exactly the same.

    Attributes:
        p: dropped share.
        follows: true if `p` was given as `"auto"`, so that `follow` sets it.
    """

    def __init__(self, p: DroppedShare) -> None:
        super().__init__()
        self.follows = p == "auto"
        self.p = 0.5 if p == "auto" else p

    def follow(self, features: int, groups: int, steps: int) -> None:
        """Set a share of `"auto"` for the training of a linear map of F features on G groups.

        Dropout acts as ridge regression whose penalty is p / (1 - p) times the variance of each feature (Wager, Wang
        and Liang 2013, arXiv 1307.1493). The penalty that generalises best grows with F / G, here as its root. A
        training of few steps needs less of it, since it ends early.
        """
        if self.follows:
            penalty = STRENGTH * math.sqrt(features / groups) * min(1.0, steps / STEPS)
            self.p = penalty / (1 + penalty)

    def forward(self, values: Tensor) -> Tensor:
        """Return the values, in training with features set to zero; the shape does not change."""
        if not self.training or not self.p:
            return values
        return values * self.mask(values.shape, values)

    def mask(self, shape: torch.Size | tuple[int, ...], like: Tensor) -> Tensor:
        """Return factors 0 or 1 / kept share (1 outside of training) on the device and with the dtype of `like`."""
        if not self.training or not self.p:
            return like.new_ones(shape)
        kept = max(1, round((1 - self.p) * LEVELS))
        count = torch.Size(shape).numel()
        words = torch.empty(-(-count // 8), dtype=torch.int64, device=like.device).random_(-(2**63), None)
        drawn = words.view(torch.uint8)[:count].view(shape)
        # `drawn < LEVELS` would compare with 0, since LEVELS is no byte.
        return (drawn <= kept - 1).to(like.dtype) * (LEVELS / kept)
