"""Dropout with cheap masks: on a CPU, drawing a random number per feature takes longer than multiplying by it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEVELS = 256


class Dropout(nn.Module):
    """Dropout as in `torch.nn.Dropout`, with a random byte per feature: the dropped share is `p` to the nearest 1/256.

    Kept features are divided by the actual kept share, so that the mean stays exactly the same.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

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
        return (drawn < kept).to(like.dtype) * (LEVELS / kept)
